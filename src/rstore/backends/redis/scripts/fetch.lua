-- Returns some records of one bucket, as many of the first ones as make a page, and of each the last millisecond that it
-- is there (nothing at all if none of the bucket expires).
--
-- KEYS: marker, expiry, then the records. ARGV: marker, how many bytes at most, and of each record ('' for all of it).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local expiring = redis.call('EXISTS', KEYS[2]) == 1
local records, last, size, from = {}, {}, 0, 3
while from <= #KEYS and size <= tonumber(ARGV[2]) do
  local to = math.min(from + 49, #KEYS)
  local keys = {}
  local found = {}
  if ARGV[3] == '' then
    found = redis.call('MGET', unpack(KEYS, from, to))
  else
    for i = from, to do
      local head = redis.call('GETRANGE', KEYS[i], 0, ARGV[3] - 1)
      found[#found + 1] = head ~= '' and head  -- no record is empty
    end
  end
  for i, record in ipairs(found) do
    records[#records + 1] = record
    size = size + (record and #record or 0)
    keys[i] = KEYS[from + i - 1]:sub(17)
  end
  if expiring then
    for _, score in ipairs(redis.call('ZMSCORE', KEYS[2], unpack(keys))) do
      last[#last + 1] = score
    end
  end
  from = to + 1
end
return {records, last}
