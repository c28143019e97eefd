-- Number, keep and publish messages of one room, as one step that nothing can split.
--
-- KEYS: numbering (a hash), history (a stream), then one for each idempotency key.
-- ARGV: channel, epoch to use if there is none, history limit, history ttl in ms,
--       numbering ttl in ms, key ttl in ms; then for each message its body and the
--       index of its idempotency key in KEYS (0: none).
-- Returns how many messages are new, then the seq of each. One PUBLISH carries all
-- that are new:
--   epoch first-seq length body length body ...
local numbering, history = KEYS[1], KEYS[2]
local channel, epoch = ARGV[1], ARGV[2]
local limit, ttl = tonumber(ARGV[3]), ARGV[4]

local known = redis.call('HGET', numbering, 'epoch')
if known then
  epoch = known
else
  redis.call('HSET', numbering, 'epoch', epoch, 'seq', 0)
  redis.call('DEL', history)
end

local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local seq = tonumber(redis.call('HGET', numbering, 'seq'))
local first = seq + 1
local seqs, out = {0}, {}
for i = 7, #ARGV, 2 do
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
      redis.call('SET', key, seq, 'PX', ARGV[6])
    end
    seqs[#seqs + 1] = seq
    out[#out + 1] = #body
    out[#out + 1] = body
  end
end
redis.call('HSET', numbering, 'seq', seq)
redis.call('PEXPIRE', numbering, ARGV[5])
if limit > 0 then
  redis.call('PEXPIRE', history, ttl)
end
if seq >= first then
  redis.call('PUBLISH', channel, epoch .. ' ' .. first .. ' ' .. table.concat(out, ' '))
end
seqs[1] = #out / 2
return seqs
