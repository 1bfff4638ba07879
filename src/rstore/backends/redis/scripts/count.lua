-- Returns the number of records of one bucket in a range; -1 if so many of the bucket have expired that looking at each
-- would take long.
--
-- KEYS: marker, index, expiry. ARGV: marker, where to begin, where to end (as ZRANGEBYLEX has them).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local low, high = ARGV[2], ARGV[3]
local expired = redis.call('ZCOUNT', KEYS[3], '-inf', '(' .. now)
if low == '-' and high == '+' then
  return redis.call('ZCARD', KEYS[2]) - expired
end
if expired > 1000 then
  return -1
end

local function less(a, b)  -- byte by byte; `<` goes by the server's locale
  for i = 1, math.min(#a, #b) do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then
      return x < y
    end
  end
  return #a < #b
end

local found = redis.call('ZLEXCOUNT', KEYS[2], low, high)
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '(' .. now)) do
  if not (low ~= '-' and less(key, low:sub(2))) and (high == '+' or less(key, high:sub(2))) then
    found = found - 1
  end
end
return found
