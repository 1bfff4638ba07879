-- Keeps a fact about an incarnation of a namespace unless there is one of that name; returns the one that is kept.
--
-- With a new one the last eight bytes of the incarnation, the time in microseconds, are others: later ones are greater,
-- whatever the clock does.
--
-- KEYS: registry. ARGV: identity of the incarnation, field, fact.
local alive, birth, keys = unpack(redis.call('HMGET', KEYS[1], 'alive', 'birth', 'keys'))
if alive ~= '1' or birth ~= ARGV[1] then
  return {err = 'STALE'}
end
if redis.call('HSETNX', KEYS[1], ARGV[2], ARGV[3]) == 1 then
  local time = redis.call('TIME')
  local us = time[1] * 1000000 + time[2]
  if keys then
    us = math.max(us, struct.unpack('>I8', keys) + 1)
  end
  redis.call('HSET', KEYS[1], 'keys', struct.pack('>I8', us))
end
return redis.call('HGET', KEYS[1], ARGV[2])
