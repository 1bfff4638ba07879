-- Deletes records of one bucket, the first ones of a range; returns how many there were, and the key behind which to go
-- on ('' if nothing is left).
--
-- The names of the records come out of the index and cannot be declared as KEYS; all have the hash tag of the bucket.
--
-- KEYS: marker, index, expiry. ARGV: marker, where to begin, where to end (as ZRANGEBYLEX has them), how many at most.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local index, expiry = KEYS[2], KEYS[3]
local values = index:sub(1, 7) .. 'v' .. index:sub(9)
local keys = redis.call('ZRANGEBYLEX', index, ARGV[2], ARGV[3], 'LIMIT', 0, ARGV[4])
local found = 0
for from = 1, #keys, 500 do
  local to = math.min(from + 499, #keys)
  local names = {}
  for i = from, to do
    names[i - from + 1] = values .. keys[i]
  end
  found = found + redis.call('UNLINK', unpack(names))
  redis.call('ZREM', index, unpack(keys, from, to))
  redis.call('ZREM', expiry, unpack(keys, from, to))
end
return {found, #keys == tonumber(ARGV[4]) and keys[#keys] or ''}
