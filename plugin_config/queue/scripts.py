"""The transitions of `plugin_config.queue.pending` and `order`, each a Redis script: no worker ever sees half of one.

Every script gets the prefix of a project's keys as its only key, P, and adds the names of `keys.ProjectKeys` to it.
"""

from __future__ import annotations

from plugin_config.queue.keys import LUA_KEYS

AHEAD_MS = 10**13  # a priority is so far ahead of the next: farther than any clock reaches, so they never mix

LEAP_MS = 4000
"""By how much the queue's clock advances between two calls, at most. A lease of ten seconds is renewed every 2.5: it is
not over after such a leap, and there are 3.5 s to renew it. Calls that are farther apart only slow the clock down."""

# A clock that neither goes back nor leaps: it advances with Redis' own, by LEAP_MS at most between two calls.
# Setting a machine's clock, and hours in which Redis is down, then end no lease and delay no retry; living workers call
# every few seconds, so the leases of a dead one still end in time.
# Anyone who reaches Redis may write there: a value that is no finite number counts as missing, and a clock that is a
# year behind is set, because nothing would be due any more.
CLOCK = LUA_KEYS + f"local LEAP = {LEAP_MS}" + """
local function num(value)
  local n = tonumber(value or '')
  if n and n == n and n > -1e15 and n < 1e15 then return n end
  return nil
end
local function one_more(key, field)
  local n = math.max(0, math.floor(num(redis.call('HGET', key, field)) or 0)) + 1
  redis.call('HSET', key, field, n)
  return n
end
local t = redis.call('TIME')
local wall = t[1] * 1000 + math.floor(t[2] / 1000)
local clock = redis.call('HMGET', CLOCK, 'wall', 'now')
local now = wall
local before, last = num(clock[1]), num(clock[2])
if before and last then now = math.floor(last) + math.min(math.max(wall - before, 0), LEAP) end
if wall - now > 32000000000 then now = wall end
redis.call('HSET', CLOCK, 'wall', wall, 'now', now)
local P = KEYS[1]
"""

# Whether a newer part has asked for tasks of a project, which this one then leaves alone; and the note of it.
CONTRACT_GUARD = """
local function asked_by(project) return num(redis.call('HGET', CONTRACTS, project)) or 1 end
local project = string.match(P, ':(%d+):$')
local newer = asked_by(project) > CONTRACT
local function note_contract()
  if asked_by(project) < CONTRACT then redis.call('HSET', CONTRACTS, project, CONTRACT) end
end
"""

NOTE_CONTRACT = CLOCK + CONTRACT_GUARD + "note_contract()"
IS_NEWER = CLOCK + CONTRACT_GUARD + "return newer and 1 or 0"

NOW = CLOCK + "return now"

# A key of a wrong type ends a script before it changes anything, so that it can be run again.
_SOUND = """
local function sound(hashes, zsets, sets)
  redis.call('LLEN', ERRORS)
  redis.call('HLEN', ENDED)
  for _, name in ipairs(hashes) do redis.call('HLEN', P .. name) end
  for _, name in ipairs(zsets) do redis.call('ZCARD', P .. name) end
  for _, name in ipairs(sets) do redis.call('SCARD', P .. name) end
end
"""

_NOTE = """
local function note(member, reason)
  local row = {at = wall, project = tonumber(string.match(P, ':(%d+):')), task = member, reason = reason}
  redis.call('LPUSH', ERRORS, cjson.encode(row))
  redis.call('LTRIM', ERRORS, 0, 99)
end
"""

_FAIL = _NOTE + """
local function fail(member, reason)
  redis.call('HDEL', P .. 'tries', member)
  redis.call('HDEL', P .. 'deaths', member)
  redis.call('HSET', P .. 'failed', member, reason)
  one_more(ENDED, 'failed')
  note(member, reason)
end
"""

# ARGV: member, what people should know about it.
NOTE = CLOCK + _NOTE + "note(ARGV[1], ARGV[2])"

# Whether somebody asks for a project: it is known, or is to be looked up.
_IS_ASKED_FOR = LUA_KEYS + """
local function is_asked_for(project)
  return redis.call('SISMEMBER', PROJECTS, project) == 1 or redis.call('ZSCORE', UNKNOWN, project) ~= false
end
"""

# ARGV: project.
IS_ASKED_FOR = _IS_ASKED_FOR + "return is_asked_for(ARGV[1]) and 1 or 0"

# ARGV: project. One that is forgotten by now stays so.
CONFIRM = _IS_ASKED_FOR + """
if not is_asked_for(ARGV[1]) then return 0 end
redis.call('SADD', PROJECTS, ARGV[1])
redis.call('ZREM', UNKNOWN, ARGV[1])
return 1
"""

# ARGV: project, how far ahead of now (ms), how many follow in further calls, most pending tasks, most unknown projects,
# most pending tasks of all those, whether only for a project that somebody asks for (0 or 1), members. The order of the
# members is kept, 64 in a millisecond. A project is unknown until Label Studio was found to have it. Returns how many
# are new, -1 where there is no room.
ADD = CLOCK + CONTRACT_GUARD + _SOUND + _IS_ASKED_FOR + """
sound({'leases', 'failed'}, {'pending'}, {})
if ARGV[7] == '1' and not is_asked_for(ARGV[1]) then return 0 end
local many = #ARGV - 7
if redis.call('SISMEMBER', PROJECTS, ARGV[1]) == 0 then
  if not redis.call('ZSCORE', UNKNOWN, ARGV[1]) then
    if redis.call('ZCARD', UNKNOWN) >= tonumber(ARGV[5]) then return -1 end
    redis.call('ZADD', UNKNOWN, now, ARGV[1])
  end
  local waiting = 0
  for _, project in ipairs(redis.call('ZRANGE', UNKNOWN, 0, -1)) do
    local held = redis.pcall('ZCARD', prefix_of(project) .. 'pending')
    waiting = waiting + (type(held) == 'number' and held or 0)
  end
  if waiting + many > tonumber(ARGV[6]) then return -1 end
elseif redis.call('ZCARD', P .. 'pending') + many > tonumber(ARGV[4]) then
  return -1
end
note_contract()
local added = 0
local last = now - tonumber(ARGV[2]) - ARGV[3] / 64
for i = 8, #ARGV do
  local due = last - (#ARGV - i) / 64
  if redis.call('HEXISTS', P .. 'leases', ARGV[i]) == 0 then
    local old = redis.call('ZSCORE', P .. 'pending', ARGV[i])
    if not old then
      added = added + 1
      redis.call('HDEL', P .. 'failed', ARGV[i])
      redis.call('ZADD', P .. 'pending', due, ARGV[i])
    elseif due < tonumber(old) then
      redis.call('ZADD', P .. 'pending', due, ARGV[i])
    end
  end
end
return added
"""

# ARGV: project, owner, lease (ms), most tasks, deaths that make a task a suspect. Returns member, due, suspect (0 or 1)
# in turn. A suspect may kill its worker, so it is leased alone and costs no other task a try.
TAKE = CLOCK + CONTRACT_GUARD + _SOUND + """
sound({'leases', 'deaths'}, {'pending'}, {})
local taken = {}
if newer then return taken end
if redis.call('SISMEMBER', PAUSED, ARGV[1]) == 1 then return taken end
local due = redis.call('ZRANGEBYSCORE', P .. 'pending', '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[4])
for i = 1, #due, 2 do
  local suspect = (num(redis.call('HGET', P .. 'deaths', due[i])) or 0) >= tonumber(ARGV[5])
  if suspect and #taken > 0 then break end
  redis.call('ZREM', P .. 'pending', due[i])
  redis.call('HSET', P .. 'leases', due[i], ARGV[2] .. '|' .. (now + ARGV[3]) .. '|' .. due[i + 1])
  taken[#taken + 1] = due[i]
  taken[#taken + 1] = due[i + 1]
  taken[#taken + 1] = suspect and '1' or '0'
  if suspect then break end
end
return taken
"""

_MINE = """
local function mine(member)
  local lease = redis.call('HGET', P .. 'leases', member)
  if not lease or string.sub(lease, 1, #ARGV[1] + 1) ~= ARGV[1] .. '|' then return nil end
  return string.match(lease, '|([^|]*)$')
end
"""

# ARGV: owner, lease (ms), members. Returns those still held.
RENEW = CLOCK + _MINE + """
local kept = {}
for i = 3, #ARGV do
  local due = mine(ARGV[i])
  if due then
    redis.call('HSET', P .. 'leases', ARGV[i], ARGV[1] .. '|' .. (now + ARGV[2]) .. '|' .. due)
    kept[#kept + 1] = ARGV[i]
  end
end
return kept
"""

# ARGV: owner, member, outcome, detail (reason, or delay in ms, or 1 where older predictions are still to be deleted),
# most tries, how long a prediction stays unconfirmed (ms). A prediction that was stored although the lease was lost
# meanwhile may be the second one: it is looked at.
SETTLE = CLOCK + _SOUND + _MINE + _FAIL + """
local due = mine(ARGV[2])
local version, task = string.match(ARGV[2], '^(.*)|(%d+)$')
local function note_older()
  if ARGV[4] == '1' then redis.call('SADD', P .. 'left', task) end
end
if not due then
  local known = redis.call('SISMEMBER', PROJECTS, string.match(P, ':(%d+):')) == 1
  if ARGV[3] == 'done' and known then
    redis.call('ZADD', P .. 'doubts', now + ARGV[6], ARGV[2])
    note_older()
  end
  return 0
end
sound({'tries', 'deaths', 'failed', 'pace'}, {'pending'}, {'versions', 'left', 'done:' .. version})
redis.call('HDEL', P .. 'leases', ARGV[2])
if ARGV[3] == 'done' then
  redis.call('HDEL', P .. 'tries', ARGV[2])
  redis.call('HDEL', P .. 'deaths', ARGV[2])
  one_more(ENDED, 'done')
  redis.call('SADD', P .. 'versions', version)
  redis.call('SADD', P .. 'done:' .. version, task)
  note_older()
  local bucket = math.floor(now / 5000)
  local held = redis.call('HGET', P .. 'pace', bucket % 13)
  local count = held and num(string.match(held, '^' .. bucket .. ':(%d+)$')) or 0
  redis.call('HSET', P .. 'pace', bucket % 13, bucket .. ':' .. (count + 1))
elseif ARGV[3] == 'failed' then
  fail(ARGV[2], ARGV[4])
elseif ARGV[3] == 'retry' then
  local tries = one_more(P .. 'tries', ARGV[2])
  if tries >= tonumber(ARGV[5]) then
    fail(ARGV[2], ARGV[4])
  else
    redis.call('ZADD', P .. 'pending', now + 1000 * 4 ^ tries, ARGV[2])
  end
elseif ARGV[3] == 'again' then
  redis.call('ZADD', P .. 'pending', ARGV[4] == '0' and num(due) or now + ARGV[4], ARGV[2])
elseif ARGV[3] == 'dropped' then
  redis.call('HDEL', P .. 'tries', ARGV[2])
  redis.call('HDEL', P .. 'deaths', ARGV[2])
end
return 1
"""

# ARGV: most deaths, reason, how long a prediction stays unconfirmed (ms): the dead worker may have been about to post.
SWEEP = CLOCK + CONTRACT_GUARD + _SOUND + _FAIL + """
sound({'leases', 'tries', 'deaths', 'failed'}, {'pending', 'doubts'}, {})
local back = {}
if newer then return back end
local leases = redis.call('HGETALL', P .. 'leases')
for i = 1, #leases, 2 do
  local member = leases[i]
  local runs_out, due = string.match(leases[i + 1], '|(%d+)|([^|]*)$')
  if not num(runs_out) or num(runs_out) < now then
    redis.call('HDEL', P .. 'leases', member)
    redis.call('ZADD', P .. 'doubts', now + ARGV[3], member)
    local deaths = one_more(P .. 'deaths', member)
    if deaths >= tonumber(ARGV[1]) then
      fail(member, ARGV[2])
    elseif deaths == 1 then
      redis.call('ZADD', P .. 'pending', num(due) or now, member)
    else
      redis.call('ZADD', P .. 'pending', now + 1000 * 4 ^ (deaths - 2), member)
    end
    back[#back + 1] = member
  end
end
return back
"""

# ARGV: how far ahead of now (ms), failed members. Returns how many are pending again.
RETRY_FAILED = CLOCK + CONTRACT_GUARD + _SOUND + """
sound({'failed'}, {'pending'}, {})
note_contract()
local moved = 0
for i = 2, #ARGV do
  if redis.call('HDEL', P .. 'failed', ARGV[i]) == 1 then
    moved = moved + 1
    redis.call('ZADD', P .. 'pending', 'NX', now - ARGV[1], ARGV[i])
  end
end
return moved
"""

# ARGV: the version instead, members. Those of the version keep the order, because an annotator may wait for one, and no
# tries or deaths: what was to be tried again later is due now. Returns how many were pending.
MOVE = CLOCK + CONTRACT_GUARD + _SOUND + """
sound({'leases', 'tries', 'deaths', 'failed'}, {'pending'}, {})
note_contract()
local moved = 0
for i = 2, #ARGV do
  local due = redis.call('ZSCORE', P .. 'pending', ARGV[i])
  if due then
    moved = moved + 1
    local member = ARGV[1] .. '|' .. string.match(ARGV[i], '|(%d+)$')
    redis.call('ZREM', P .. 'pending', ARGV[i])
    redis.call('HDEL', P .. 'tries', ARGV[i])
    redis.call('HDEL', P .. 'deaths', ARGV[i])
    if redis.call('HEXISTS', P .. 'leases', member) == 0 then
      local held = num(redis.call('ZSCORE', P .. 'pending', member))
      if not held then redis.call('HDEL', P .. 'failed', member) end
      redis.call('ZADD', P .. 'pending', math.min(num(due) or now, held or now, now), member)
    end
  end
end
return moved
"""

# ARGV: members. Their leases go too: a worker finds its lease gone before it posts. Returns how many were open.
CANCEL = CLOCK + _SOUND + """
sound({'leases', 'tries', 'deaths'}, {'pending'}, {})
local cancelled = 0
for i = 1, #ARGV do
  cancelled = cancelled + redis.call('ZREM', P .. 'pending', ARGV[i]) + redis.call('HDEL', P .. 'leases', ARGV[i])
  redis.call('HDEL', P .. 'tries', ARGV[i])
  redis.call('HDEL', P .. 'deaths', ARGV[i])
end
return cancelled
"""

_DONE = """
local bucket = math.floor(now / 5000)
local function done_in_a_minute(prefix)
  local sum = 0
  for _, held in ipairs(redis.call('HVALS', prefix .. 'pace')) do
    local at, count = string.match(held, '^(%d+):(%d+)$')
    local since = bucket - (num(at) or bucket)
    if since >= 1 and since <= 12 then sum = sum + (num(count) or 0) end
  end
  return sum
end
"""

# Returns how many tasks were done within the last whole minute of the ring.
PACE = CLOCK + _DONE + "return done_in_a_minute(P)"

# ARGV: projects. Returns the same of each.
PACES = CLOCK + _DONE + """
local sums = {}
for i = 1, #ARGV do sums[i] = done_in_a_minute(prefix_of(ARGV[i])) end
return sums
"""

# ARGV: how far ahead of the next a priority is (ms). Returns how long the first due task has waited since it became due
# (ms), of all priorities the longest; -1 where none is due. Scores that no priority has are passed over.
LONGEST_WAIT = CLOCK + """
local longest, ahead = -1, tonumber(ARGV[1])
local from = -9 * ahead
while true do
  local first = redis.call('ZRANGEBYSCORE', P .. 'pending', from, now, 'WITHSCORES', 'LIMIT', 0, 1)
  if not first[1] then return longest end
  local before = math.max(0, math.ceil(-tonumber(first[2]) / ahead)) * ahead
  longest = math.max(longest, math.floor(now - before - first[2]))
  if before == 0 then return longest end
  from = ahead - before
end
"""

# ARGV: stage, how long it took (microseconds), in turn.
ADD_STAGES = CLOCK + """
for i = 1, #ARGV, 2 do
  one_more(STAGES, ARGV[i])
  local spent = math.max(0, math.floor(num(redis.call('HGET', STAGES, ARGV[i] .. ':us')) or 0))
  redis.call('HSET', STAGES, ARGV[i] .. ':us', spent + ARGV[i + 1])
end
"""

# ARGV: member, how long it stays unconfirmed (ms).
ADD_UNCONFIRMED = CLOCK + "return redis.call('ZADD', P .. 'doubts', now + ARGV[2], ARGV[1])"

# ARGV: when the project was created. What is known of an earlier project with the same id goes.
CLAIM_ORDER = """
local P = KEYS[1]
local held = redis.call('HGET', P .. 'order', 'created')
if held == ARGV[1] then return 0 end
if held then
  for _, name in ipairs({'images', 'places', 'corrected', 'skipped', 'order', 'resting'}) do
    redis.call('UNLINK', P .. name)
  end
end
redis.call('HSET', P .. 'order', 'created', ARGV[1])
return held and 1 or 0
"""

# ARGV: task, the prediction that its record must still be of, the record instead ('' = none, its place goes, too), what
# `written` becomes then. Returns 1 where it was of this prediction.
REPLACE_RECORD = """
local P = KEYS[1]
local is_json, row = pcall(cjson.decode, redis.call('HGET', P .. 'images', ARGV[1]) or '')
if not is_json or type(row) ~= 'table' or row[2] ~= tonumber(ARGV[2]) then return 0 end
if ARGV[3] ~= '' then
  redis.call('HSET', P .. 'images', ARGV[1], ARGV[3])
else
  redis.call('HDEL', P .. 'images', ARGV[1])
  redis.call('HDEL', P .. 'places', ARGV[1])
  redis.call('HSET', P .. 'order', 'written', ARGV[4])
end
return 1
"""

# ARGV: project. Returns how many tasks are due, 0 while the project is paused or left to newer workers.
DUE = CLOCK + CONTRACT_GUARD + """
if newer then return 0 end
if redis.call('SISMEMBER', PAUSED, ARGV[1]) == 1 then return 0 end
return redis.call('ZCOUNT', P .. 'pending', '-inf', now)
"""
