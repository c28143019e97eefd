-- Number, keep and publish messages of one room, in one atomic step.
--
-- KEYS: numbering (a hash; the channel has the same name), history (a stream), then one
--       for each idempotency key.
-- ARGV: those of numbering.lua, the epoch to use for a new numbering, an epoch and a seq
--       that the caller has seen ('': none), then history limit, history ttl in ms,
--       numbering ttl in ms, key ttl in ms, whether these messages may begin the room
--       (0: no); then for each message its body and the index of its idempotency key in
--       KEYS (0: none).
-- Returns the state of the room (-1: it may not begin, and nothing was done; 1: it
-- began; 2: it keeps a history; 0: neither), the number of new messages, the epoch, and
-- then the seq of each message.
-- One PUBLISH carries all new messages:
--   epoch first-seq length body length body ...
-- A room keeps no history until a client is told a position in it. Until then it costs
-- a few hundred bytes, and expires with its idempotency keys.
local numbering, history = KEYS[1], KEYS[2]
local limit, ttl, key_ttl = tonumber(ARGV[6]), ARGV[7], ARGV[9]
if ARGV[10] == '0' and redis.call('EXISTS', numbering) == 0 then
  return {-1, 0, ''}
end
local epoch, seq, told = numbered(numbering, history, ARGV[3], ARGV[4], ARGV[5])
local keeps = told and limit > 0

local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local first = seq + 1
local seqs, out = {keeps and 2 or (seq == 0 and not told) and 1 or 0, 0, epoch}, {}
for i = 11, #ARGV, 2 do
  local body, key = ARGV[i], KEYS[tonumber(ARGV[i + 1])]
  local earlier = key and redis.call('GET', key)
  if earlier then
    seqs[#seqs + 1] = tonumber(earlier)
  else
    seq = seq + 1
    if keeps then
      redis.call('XADD', history, 'MAXLEN', limit, seq .. '-1', 't', now, 'b', body)
    end
    if key then
      redis.call('SET', key, seq, 'PX', key_ttl)
    end
    seqs[#seqs + 1] = seq
    out[#out + 1] = #body
    out[#out + 1] = body
  end
end
redis.call('HSET', numbering, 'seq', seq)
redis.call('PEXPIRE', numbering, told and ARGV[8] or key_ttl)
if keeps then
  redis.call('PEXPIRE', history, ttl)
end
if seq >= first then
  local news = epoch .. ' ' .. first .. ' ' .. table.concat(out, ' ')
  redis.call(ARGV[2], numbering, news)
end
seqs[2] = #out / 2
return seqs
