-- Number, keep and publish messages of one room, as one step that nothing can split.
--
-- KEYS: numbering (a hash; the channel has the same name), history (a stream), then one
--       for each idempotency key.
-- ARGV: run id of this server, command that publishes, epoch to use for a new
--       numbering, history limit, history ttl in ms, numbering ttl in ms, key ttl in
--       ms; then for each message its body and the index of its idempotency key in
--       KEYS (0: none).
-- Returns how many messages are new, then the seq of each. One PUBLISH carries all
-- that are new:
--   epoch first-seq length body length body ...
local numbering, history = KEYS[1], KEYS[2]
local limit, ttl = tonumber(ARGV[4]), ARGV[5]
local epoch, seq = numbered(numbering, history, ARGV[1], ARGV[3])

local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local first = seq + 1
local seqs, out = {0}, {}
for i = 8, #ARGV, 2 do
  local body, key = ARGV[i], KEYS[tonumber(ARGV[i + 1])]
  local earlier = key and redis.call('GET', key)
  if earlier then
    seqs[#seqs + 1] = tonumber(earlier)
  else
    seq = seq + 1
    if limit > 0 then
      redis.call('XADD', history, 'MAXLEN', limit, seq .. '-1', 't', now, 'b', body)
    end
    if key then
      redis.call('SET', key, seq, 'PX', ARGV[7])
    end
    seqs[#seqs + 1] = seq
    out[#out + 1] = #body
    out[#out + 1] = body
  end
end
redis.call('HSET', numbering, 'seq', seq)
redis.call('PEXPIRE', numbering, ARGV[6])
if limit > 0 then
  redis.call('PEXPIRE', history, ttl)
end
if seq >= first then
  local news = epoch .. ' ' .. first .. ' ' .. table.concat(out, ' ')
  redis.call(ARGV[2], numbering, news)
end
seqs[1] = #out / 2
return seqs
