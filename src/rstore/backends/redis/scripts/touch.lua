-- Lets a record live some milliseconds from now on; returns 1 if there is one.
--
-- KEYS: marker, expiry, record. ARGV: marker, how many milliseconds ('' for good).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local name = KEYS[3]
local key = name:sub(17)
if redis.call('EXISTS', name) == 0 then
  return 0
end
if ARGV[2] == '' then
  redis.call('PERSIST', name)
  redis.call('ZREM', KEYS[2], key)
else
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local until_ms = string.format('%.0f', now + ARGV[2] - 1)
  redis.call('ZADD', KEYS[2], until_ms, key)  -- first: it may be refused for lack of memory
  redis.call('PEXPIREAT', name, until_ms)
  if redis.call('EXISTS', name) == 0 then
    -- One that ends in this millisecond Redis deletes at once: the index must not name it until the next one.
    redis.call('ZADD', KEYS[2], string.format('%.0f', now - 1), key)
  end
end
return 1
