-- Deletes records of one bucket; returns how many there were.
--
-- KEYS: marker, index, expiry, then the records. ARGV: marker.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local found = 0
for from = 4, #KEYS, 500 do
  local to = math.min(from + 499, #KEYS)
  local keys = {}
  for i = from, to do
    keys[i - from + 1] = KEYS[i]:sub(17)
  end
  found = found + redis.call('UNLINK', unpack(KEYS, from, to))
  redis.call('ZREM', KEYS[2], unpack(keys))
  redis.call('ZREM', KEYS[3], unpack(keys))
end
return found
