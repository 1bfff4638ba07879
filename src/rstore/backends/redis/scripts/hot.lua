-- Returns the number of hot rows and about how many bytes their bodies hold.
--
-- KEYS: marker, rows. ARGV: marker.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local n = redis.call('ZCARD', KEYS[2])
if n == 0 then
  return {0, 0}
end
local some = redis.call('ZRANDMEMBER', KEYS[2], 20)
local size = 0
for _, row in ipairs(some) do
  size = size + #row - 12
end
return {n, math.floor(size * n / #some)}
