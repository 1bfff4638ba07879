-- Raises the marker of a bucket to an incarnation, never lowers it; returns the marker that is in place then.
--
-- Where only a fact was added, the generation of the records and the batch that is visible stay.
--
-- KEYS: marker, garbage. ARGV: incarnation, the generation of the records.
local marker = redis.call('GET', KEYS[1])
if marker then
  local identity = marker:sub(1, 16)
  if identity == ARGV[1]:sub(1, 16) then
    if #marker > 16 and struct.unpack('>I8', marker, 17) < struct.unpack('>I8', ARGV[1], 17) then
      marker = ARGV[1] .. marker:sub(25)
      redis.call('SET', KEYS[1], marker)
    end
    return marker
  elseif struct.unpack('>I8', identity) > struct.unpack('>I8', ARGV[1]) then
    return marker
  end
end
redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2])
if marker and #marker > 16 then
  -- The client that discarded that one did not come this far.
  redis.call('SADD', KEYS[2], 'n' .. marker:sub(1, 16), 'r' .. marker:sub(25, 32))
  if #marker > 32 then
    redis.call('SADD', KEYS[2], 'r' .. marker:sub(33))
  end
end
return ARGV[1] .. ARGV[2]
