-- Takes keys whose records have expired out of the indexes of one bucket; returns how many.
--
-- KEYS: marker, index, expiry. ARGV: marker, how many at most.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local keys = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '(' .. now, 'LIMIT', 0, ARGV[2])
for from = 1, #keys, 500 do
  local to = math.min(from + 499, #keys)
  redis.call('ZREM', KEYS[2], unpack(keys, from, to))
  redis.call('ZREM', KEYS[3], unpack(keys, from, to))
end
return #keys
