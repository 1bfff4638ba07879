-- Returns of some records of one bucket what tells their version, and the last millisecond that each is there, without
-- moving them.
--
-- KEYS: marker, expiry, then the records. ARGV: marker.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local found = {}
for i = 3, #KEYS do
  local head = redis.call('GETRANGE', KEYS[i], 0, 61)
  found[#found + 1] = head
  found[#found + 1] = head ~= '' and redis.call('ZSCORE', KEYS[2], KEYS[i]:sub(17))
end
return found
