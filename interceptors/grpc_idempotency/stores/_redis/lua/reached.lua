-- Reads the names in an index by time whose times have come, with the times in turn, the earliest first.
-- KEYS: due or expiry. ARGV: time, the most names.
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now(), 'WITHSCORES', 'LIMIT', 0, ARGV[2])
