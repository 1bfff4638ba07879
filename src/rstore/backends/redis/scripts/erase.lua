-- Deletes those bodies of chunks that are about to expire: replaced ones, and staged ones that no commit has kept yet.
--
-- KEYS: bodies, in one bucket.
for _, body in ipairs(KEYS) do
  if redis.call('PTTL', body) >= 0 then
    redis.call('UNLINK', body)
  end
end
return 0
