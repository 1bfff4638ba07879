-- Makes a staged batch of records visible: from now on the marker names it. Returns 0 if there is another one that is not
-- absorbed yet.
--
-- KEYS: marker, staged batches. ARGV: incarnation, the batch.
local marker = redis.call('GET', KEYS[1])
if not marker or marker:sub(1, 24) ~= ARGV[1] then
  return {err = 'STALE'}
end
if #marker > 32 then
  return 0
end
-- SET first: it may be refused for lack of memory, and then the batch is still staged.
if not redis.call('ZSCORE', KEYS[2], ARGV[2]) then
  return {err = 'UNSTAGED'}
end
redis.call('SET', KEYS[1], marker .. ARGV[2])
redis.call('ZREM', KEYS[2], ARGV[2])
return 1
