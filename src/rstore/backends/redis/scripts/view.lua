-- Returns what a log holds between two positions, without the bodies of chunks: milliseconds now, the head (epoch,
-- version, sealed, facts) or nothing, rows, chunks, checkpoint or nothing.
--
-- A row is 12 bytes of position and the body, a chunk 12 bytes of its first position, 12 of its last, 4 of its n, 12
-- that name its body, and its meta.
--
-- KEYS: marker, head, rows, chunks, checkpoints. ARGV: marker, version at which the head is enough ('' for none), first
-- position, the position behind the last, limit ('' for none), '1' for reverse, '1' with rows, '1' with neighbours, the
-- position before which to find a checkpoint ('' for none).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local rows, chunks, checkpoints = KEYS[3], KEYS[4], KEYS[5]
local lo, behind, limit = ARGV[3], ARGV[4], tonumber(ARGV[5])
local reverse, with_rows, neighbours = ARGV[6] == '1', ARGV[7] == '1', ARGV[8] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local head = redis.call('HMGET', KEYS[2], 'e', 'v', 's', 'f')
if not (head[1] and head[2] and head[3] and head[4]) then
  if redis.call('EXISTS', KEYS[2]) == 1 then
    return {err = 'DAMAGED'}
  end
  return {now, false}
end
if head[2] == ARGV[2] then
  return {now, head}
end

local function after(position)
  return position:sub(1, 8) .. struct.pack('>I4', struct.unpack('>I4', position, 9) + 1)
end
local function before(a, b)
  -- Not a < b: Lua compares strings by the locale of the server.
  for i = 1, 12 do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then
      return x < y
    end
  end
  return false
end

local checkpoint = false
if ARGV[9] ~= '' then
  checkpoint = redis.call('ZREVRANGEBYLEX', checkpoints, '(' .. ARGV[9], '-', 'LIMIT', 0, 1)[1] or false
  if checkpoint then
    lo = after(checkpoint)
  end
end

local hot = {}
if with_rows then
  if not limit then
    hot = redis.call('ZRANGEBYLEX', rows, '[' .. lo, '(' .. behind)
  elseif reverse then
    hot = redis.call('ZREVRANGEBYLEX', rows, '(' .. behind, '[' .. lo, 'LIMIT', 0, limit)
  else
    hot = redis.call('ZRANGEBYLEX', rows, '[' .. lo, '(' .. behind, 'LIMIT', 0, limit)
  end
end

local found = {}
-- Chunks are disjoint: of those that begin at or before `lo`, only the last can reach it.
local early = redis.call('ZREVRANGEBYLEX', chunks, '(' .. after(lo), '-', 'LIMIT', 0, 2)
local reaches = early[1] and not before(early[1]:sub(13, 24), lo) and before(early[1], behind)
if neighbours then
  found[1] = early[reaches and 2 or 1]
end
if not limit then
  if reaches then
    found[#found + 1] = early[1]
  end
  for _, chunk in ipairs(redis.call('ZRANGEBYLEX', chunks, '[' .. after(lo), '(' .. behind)) do
    found[#found + 1] = chunk
  end
else
  local held = -1  -- how many rows the chunks after the first one hold; -1 before the first one
  local function enough(chunk)
    found[#found + 1] = chunk
    held = held < 0 and 0 or held + struct.unpack('>I4', chunk, 25)
    return held >= limit
  end
  local done = reaches and not reverse and enough(early[1])
  local at, page = 0, 4
  while not done do
    local some
    if reverse then
      some = redis.call('ZREVRANGEBYLEX', chunks, '(' .. behind, '[' .. after(lo), 'LIMIT', at, page)
    else
      some = redis.call('ZRANGEBYLEX', chunks, '[' .. after(lo), '(' .. behind, 'LIMIT', at, page)
    end
    for _, chunk in ipairs(some) do
      done = enough(chunk)
      if done then
        break
      end
    end
    if #some < page then
      if reverse and reaches and not done then
        enough(early[1])
      end
      break
    end
    at, page = at + page, 4 * page
  end
end
if neighbours then
  found[#found + 1] = redis.call('ZRANGEBYLEX', chunks, '[' .. behind, '+', 'LIMIT', 0, 1)[1]
end
return {now, head, hot, found, checkpoint}
