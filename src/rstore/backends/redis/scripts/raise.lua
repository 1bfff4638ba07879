-- Raises the marker of a bucket to a birth, never lowers it; returns the marker that is in place then.
--
-- KEYS: marker, garbage. ARGV: birth, the generation of the records.
local marker = redis.call('GET', KEYS[1])
if marker then
  local birth = marker:sub(1, 16)
  if birth == ARGV[1] or struct.unpack('>I8', birth) > struct.unpack('>I8', ARGV[1]) then
    return marker
  end
end
redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2])
if marker and #marker > 16 then
  -- Whoever discarded that one did not come this far.
  redis.call('SADD', KEYS[2], 'n' .. marker:sub(1, 16), 'r' .. marker:sub(17, 24))
  if #marker > 24 then
    redis.call('SADD', KEYS[2], 'r' .. marker:sub(25))
  end
end
return ARGV[1] .. ARGV[2]
