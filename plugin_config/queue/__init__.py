"""The queue in Redis: keys, connection, jobs, tasks by state, hints, learning, presence. It knows neither Label Studio
nor models.
"""
