-- Returns a record, or whether it is there. It may be in a batch: a key that is in the index of the batch is not looked
-- for elsewhere, though it expired.
--
-- KEYS: marker, index of the batch, record in the batch, single record. ARGV: marker, key, '1' to say only if it is there.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local name = redis.call('ZSCORE', KEYS[2], ARGV[2]) and KEYS[3] or KEYS[4]
return redis.call(ARGV[3] == '1' and 'EXISTS' or 'GET', name)
