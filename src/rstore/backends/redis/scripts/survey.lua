-- Counts some records of one bucket, and looks whether the indexes say the truth. Returns where to go on ('' at the end),
-- how many records there are, their bytes, and problems: key and what is wrong, one after the other.
--
-- The names of the records come out of the index and cannot be declared as KEYS; all have the hash tag of the bucket.
--
-- KEYS: marker, index, expiry. ARGV: marker, where to begin (as ZRANGEBYLEX has it), how many to look at.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local index, expiry, most = KEYS[2], KEYS[3], tonumber(ARGV[3])
local values = index:sub(1, 7) .. 'v' .. index:sub(9)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local keys = redis.call('ZRANGEBYLEX', index, ARGV[2], '+', 'LIMIT', 0, most)
local n, size, problems = 0, 0, {}
for _, key in ipairs(keys) do
  local length = redis.call('STRLEN', values .. key)
  local last = redis.call('ZSCORE', expiry, key)
  if length > 0 then
    n, size = n + 1, size + length
    if (redis.call('PTTL', values .. key) >= 0) ~= (last and true or false) then
      problems[#problems + 1], problems[#problems + 2] = key, 'expiry'
    end
  elseif not last or tonumber(last) >= now then
    problems[#problems + 1], problems[#problems + 2] = key, 'record'
  end
end
return {#keys == most and '(' .. keys[#keys] or '', n, size, problems}
