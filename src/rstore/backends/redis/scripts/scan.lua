-- Returns a page of the records of one bucket: the last key that was looked at ('' if none follows), those keys that
-- expire, each with the last millisecond that it is there, then all keys, each with its record. If only keys are asked for,
-- neither records nor milliseconds.
--
-- The names of the records come out of the index and cannot be declared as KEYS; all have the hash tag of the bucket.
--
-- KEYS: marker, index, expiry. ARGV: marker, where to begin, where to end (as ZRANGEBYLEX has them), how many, '1' for
-- reverse order, '1' for only keys, how many bytes at most, and of each record ('' for all of it).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local index, expiry = KEYS[2], KEYS[3]
local values = index:sub(1, 7) .. 'v' .. index:sub(9)
local limit, reverse, keys_only, most = tonumber(ARGV[4]), ARGV[5] == '1', ARGV[6] == '1', tonumber(ARGV[7])
local command = reverse and 'ZREVRANGEBYLEX' or 'ZRANGEBYLEX'
local expiring = redis.call('EXISTS', expiry) == 1
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local keys = redis.call(command, index, ARGV[2], ARGV[3], 'LIMIT', 0, limit + 1)
local more = #keys > limit
local page, size = {'', {}}, 0
for i = 1, math.min(#keys, limit) do
  local key = keys[i]
  if not keys_only then
    local record = ARGV[8] == '' and redis.call('GET', values .. key)
      or ARGV[8] ~= '' and redis.call('GETRANGE', values .. key, 0, ARGV[8] - 1)
    if record and record ~= '' then
      page[#page + 1], page[#page + 2] = key, record
      size = size + #record
      local last = expiring and redis.call('ZSCORE', expiry, key)
      if last then
        local expiries = page[2]
        expiries[#expiries + 1], expiries[#expiries + 2] = key, last
      end
    end
  else
    local last = expiring and redis.call('ZSCORE', expiry, key)
    if not last or tonumber(last) >= now then
      page[#page + 1] = key
    end
  end
  if (more or i < #keys) and (i == limit or size > most) then
    page[1] = key
    break
  end
end
return page
