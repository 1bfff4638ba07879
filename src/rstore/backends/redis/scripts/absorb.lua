-- Moves some records of a visible batch to where single records lie; takes it out of the marker when none is left.
-- Returns how many are left.
--
-- The names of the records come out of the index and cannot be declared as KEYS; all have the hash tag of the bucket.
-- Each record is moved on its own, so that an error half-way leaves the rest to the next one.
--
-- KEYS: marker, index and expiry of the batch, index and expiry of the single ones. ARGV: marker, how many at most.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local from, from_expiry, to, to_expiry = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local source = from:sub(1, 7) .. 'v' .. from:sub(9)
local target = to:sub(1, 7) .. 'v' .. to:sub(9)
local expiring = redis.call('EXISTS', from_expiry, to_expiry) > 0
for _, key in ipairs(redis.call('ZRANGE', from, 0, ARGV[2] - 1)) do
  local last = expiring and redis.call('ZSCORE', from_expiry, key)
  local moved = redis.pcall('RENAME', source .. key, target .. key)
  if not moved.err then
    redis.call('ZADD', to, '0', key)
    if last then
      redis.call('ZADD', to_expiry, last, key)
    elseif expiring then
      redis.call('ZREM', to_expiry, key)
    end
  elseif moved.err:find('no such key') then  -- it has expired
    redis.call('UNLINK', target .. key)
    redis.call('ZREM', to, key)
    redis.call('ZREM', to_expiry, key)
  else
    return moved
  end
  redis.call('ZREM', from, key)
end
local left = redis.call('ZCARD', from)
if left == 0 then
  redis.call('UNLINK', from_expiry)
  redis.call('SET', KEYS[1], ARGV[1]:sub(1, 32))
end
return left
