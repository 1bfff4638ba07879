-- Counts some of what the logs of one model hold in one bucket, and looks whether the parts belong together. Returns where
-- to go on (key, part, place; '' at the end), how many logs, rows and bytes, and problems: key and what is wrong, one after
-- the other.
--
-- The names of the parts come out of the index and cannot be declared as KEYS; all have the hash tag of the bucket.
--
-- KEYS: marker, index of logs. ARGV: marker, key, part and place to begin with (a key as ZRANGEBYLEX has it; part 0 is the
-- head), how much to look at.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {err = 'STALE'}
end
local index, begin, part, place, left = KEYS[2], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local bucket, incarnation_and_model = index:sub(1, 7), index:sub(9)
local bodies = bucket .. 'b' .. incarnation_and_model:sub(1, 16)
local KINDS = {'r', 'c', 'k'}
local logs, rows, size, problems = 0, 0, 0, {}

local function complain(key, what)
  problems[#problems + 1], problems[#problems + 2] = key, what
end
local function count(kind, key, member)
  if #member < (kind == 'c' and 40 or 12) then
    complain(key, 'member')
  elseif kind == 'c' then
    local body = bodies .. member:sub(29, 40)
    local length = redis.call('STRLEN', body)
    if length == 0 then
      complain(key, 'body')
    elseif redis.call('PTTL', body) >= 0 then
      complain(key, 'passing')
    end
    rows, size = rows + struct.unpack('>I4', member, 25), size + #member - 40 + length
  else
    rows, size = rows + (kind == 'r' and 1 or 0), size + #member - 12
  end
end

while left > 0 do
  local key = redis.call('ZRANGEBYLEX', index, begin, '+', 'LIMIT', 0, 1)[1]
  if not key then
    begin = ''
    break
  end
  if part == 0 or begin ~= '[' .. key then  -- another one, where that one was dropped meanwhile
    logs, left = logs + 1, left - 1
    local head = redis.call('HMGET', bucket .. 'h' .. incarnation_and_model .. key, 'e', 'v', 's', 'f')
    if not (head[1] and head[2] and head[3] and head[4]) then
      complain(key, 'head')
    end
    begin, part, place = '[' .. key, 1, '-'
  end
  while part <= #KINDS and left > 0 do
    local name, most = bucket .. KINDS[part] .. incarnation_and_model .. key, left
    local members = redis.call('ZRANGEBYLEX', name, place, '+', 'LIMIT', 0, most)
    for _, member in ipairs(members) do
      count(KINDS[part], key, member)
    end
    left = left - #members
    if #members < most then
      part, place = part + 1, '-'
    else
      place = '(' .. members[#members]
    end
  end
  if part > #KINDS then
    begin, part = '(' .. key, 0
  end
end
return {begin, part, place, logs, rows, size, problems}
