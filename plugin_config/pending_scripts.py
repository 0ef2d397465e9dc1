"""The transitions of `plugin_config.pending`, each one Redis script, so that no two workers ever see half of one.

Redis' own clock decides what is due and what ran out. It must not know Python.
"""

from __future__ import annotations

NOW = "local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000); "

ADD = NOW + """
redis.call('SADD', KEYS[4], ARGV[1])
local added = 0
for i = 3, #ARGV do
  local due = now - tonumber(ARGV[2])
  if redis.call('HEXISTS', KEYS[2], ARGV[i]) == 0 then
    local old = redis.call('ZSCORE', KEYS[1], ARGV[i])
    if not old then
      added = added + 1
      redis.call('HDEL', KEYS[3], ARGV[i])
      redis.call('ZADD', KEYS[1], due, ARGV[i])
    elseif due < tonumber(old) then
      redis.call('ZADD', KEYS[1], due, ARGV[i])
    end
  end
end
return added
"""

TAKE = NOW + """
local taken = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[3])
for _, member in ipairs(taken) do
  redis.call('ZREM', KEYS[1], member)
  redis.call('HSET', KEYS[2], member, ARGV[1] .. '|' .. (now + ARGV[2]))
end
return taken
"""

RENEW = NOW + """
local kept = {}
for i = 3, #ARGV do
  local lease = redis.call('HGET', KEYS[1], ARGV[i])
  if lease and string.sub(lease, 1, #ARGV[1] + 1) == ARGV[1] .. '|' then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[1] .. '|' .. (now + ARGV[2]))
    kept[#kept + 1] = ARGV[i]
  end
end
return kept
"""

# KEYS: leases, pending, attempts, failed, done.
# ARGV: owner, member, outcome, detail (version, reason or delay ms), most attempts.
SETTLE = NOW + """
local lease = redis.call('HGET', KEYS[1], ARGV[2])
if not lease or string.sub(lease, 1, #ARGV[1] + 1) ~= ARGV[1] .. '|' then return 0 end
redis.call('HDEL', KEYS[1], ARGV[2])
if ARGV[3] == 'done' then
  redis.call('HDEL', KEYS[3], ARGV[2])
  redis.call('HINCRBY', KEYS[5], ARGV[4], 1)
elseif ARGV[3] == 'failed' then
  redis.call('HDEL', KEYS[3], ARGV[2])
  redis.call('HSET', KEYS[4], ARGV[2], ARGV[4])
elseif ARGV[3] == 'retry' then
  local attempts = redis.call('HINCRBY', KEYS[3], ARGV[2], 1)
  if attempts >= tonumber(ARGV[5]) then
    redis.call('HDEL', KEYS[3], ARGV[2])
    redis.call('HSET', KEYS[4], ARGV[2], ARGV[4])
  else
    redis.call('ZADD', KEYS[2], now + 1000 * 4 ^ attempts, ARGV[2])
  end
elseif ARGV[3] == 'again' then
  redis.call('ZADD', KEYS[2], now + ARGV[4], ARGV[2])
end
return 1
"""

SWEEP = NOW + """
local back = {}
local leases = redis.call('HGETALL', KEYS[1])
for i = 1, #leases, 2 do
  local runs_out = tonumber(string.match(leases[i + 1], '|(%d+)$'))
  if not runs_out or runs_out < now then
    redis.call('HDEL', KEYS[1], leases[i])
    local attempts = redis.call('HINCRBY', KEYS[3], leases[i], 1)
    if attempts >= tonumber(ARGV[1]) then
      redis.call('HDEL', KEYS[3], leases[i])
      redis.call('HSET', KEYS[4], leases[i], ARGV[2])
    else
      redis.call('ZADD', KEYS[2], now - attempts, leases[i])
    end
    back[#back + 1] = leases[i]
  end
end
return back
"""
