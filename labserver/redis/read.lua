-- Return the positions of rooms, and one page of the history of each after a seq.
--
-- KEYS: for each room its numbering (a hash) and its history (a stream).
-- ARGV: those of numbering.lua, numbering ttl in ms, history ttl in ms, the bytes of a
--       page; then for each room the epoch to use for a new numbering, an epoch and a
--       seq that the caller has seen ('': none), the seq after which messages are wanted
--       (-1: none), and the stream ID at which to start backwards, newest first ('':
--       forwards, oldest first).
-- Returns for each room its epoch, seq, the epoch before and the last seq that both share
-- (or '' and -1), the seq at which the reading stopped, then seq and body of each message
-- that is not too old, as many as fit. At least one message is read, even if it does not
-- fit. The age is by Redis's clock: if that is set back, messages live longer.
local now = redis.call('TIME')
local oldest = now[1] * 1000 + math.floor(now[2] / 1000) - tonumber(ARGV[4])

local function page(numbering, history, fresh, seen, upto, after, last)
  local epoch, seq, told, before, base =
    numbered(numbering, history, fresh, seen, upto)
  if not told then
    redis.call('HSET', numbering, 'told', 1)
  end
  redis.call('PEXPIRE', numbering, ARGV[3])
  local room = tonumber(ARGV[5])
  local back = last ~= ''
  -- The fifth result: forwards, every message up to it was read; backwards, every
  -- message above it.
  local reply = {epoch, seq, before, base, back and after or seq}
  if after < 0 then
    return reply
  end
  local first = string.format('%.0f-0', after + 1)
  local looked = false
  while true do
    -- A few at a time, so that few messages are read that do not fit.
    local some
    if back then
      some = redis.call('XREVRANGE', history, last, first, 'COUNT', 16)
    else
      some = redis.call('XRANGE', history, first, '+', 'COUNT', 16)
    end
    for _, entry in ipairs(some) do
      local number = tonumber(string.match(entry[1], '^%d+'))
      local body, young = entry[2][4], tonumber(entry[2][2]) >= oldest
      if back and not young then
        return reply  -- a replay cannot skip it, so older messages are of no use
      end
      room = room - #body
      if room < 0 and looked then
        reply[5] = back and number or number - 1
        return reply
      end
      looked = true
      if young then
        reply[#reply + 1] = number
        reply[#reply + 1] = body
      end
      first = back and first or string.format('%.0f-0', number + 1)
      last = back and string.format('%.0f-0', number) or last
    end
    if #some < 16 then
      return reply
    end
  end
end

local pages = {}
for i = 1, #KEYS / 2 do
  local at = 5 * i
  pages[i] = page(KEYS[2 * i - 1], KEYS[2 * i], ARGV[at + 1], ARGV[at + 2],
    ARGV[at + 3], tonumber(ARGV[at + 4]), ARGV[at + 5])
end
return pages
