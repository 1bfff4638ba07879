-- Puts or deletes a record if it has that version; returns 1 if it had.
--
-- KEYS: marker, index, expiry, record. ARGV: marker, version ('' if there is to be none), '1' to put or '0' to delete,
-- record, how many milliseconds it lives ('' if it stays, 'keep' for as long as the one that is there).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local name = KEYS[4]
local key = name:sub(17)
local head = redis.call('GETRANGE', name, 0, 61)
local version = head:byte(1) == 0xC1 and head:sub(51, 62) or head:sub(2, 9)
if version ~= ARGV[2] then
  return 0
end
if ARGV[3] == '0' then
  redis.call('UNLINK', name)
  redis.call('ZREM', KEYS[2], key)
  redis.call('ZREM', KEYS[3], key)
elseif ARGV[5] == '' then
  redis.call('SET', name, ARGV[4])
  redis.call('ZADD', KEYS[2], '0', key)
  redis.call('ZREM', KEYS[3], key)
elseif ARGV[5] == 'keep' then
  redis.call('SET', name, ARGV[4], 'KEEPTTL')
else
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  -- The last millisecond that it is there: Redis expires what is later than its expiry.
  local until_ms = string.format('%.0f', now + ARGV[5] - 1)
  redis.call('SET', name, ARGV[4], 'PXAT', until_ms)
  redis.call('ZADD', KEYS[2], '0', key)
  redis.call('ZADD', KEYS[3], until_ms, key)
end
return 1
