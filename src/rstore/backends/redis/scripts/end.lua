-- Makes the entry of a namespace a tombstone if it is of that incarnation, never of a later one: a client that ends it
-- again, because a reply was lost, must not end what was created meanwhile. Returns 1 if it is one.
--
-- KEYS: registry. ARGV: identity of the incarnation, milliseconds that the tombstone stays ('' for as long as it would).
if redis.call('HGET', KEYS[1], 'birth') ~= ARGV[1] then
  return 0
end
-- HDEL is never refused for lack of memory, and what follows a first write is not either. Not DEL: while the slot moves
-- to another server, a key that is gone is looked for there, and the rest of the script refused.
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if field ~= 'birth' then
    redis.call('HDEL', KEYS[1], field)
  end
end
redis.call('HSET', KEYS[1], 'alive', '0')
if ARGV[2] ~= '' then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
