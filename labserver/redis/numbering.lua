-- Return a room's epoch and its newest seq; begin a numbering if there is none.
--
-- Arguments: numbering (a hash; the channel has the same name), history (a stream),
--            epoch to use for a new numbering, an epoch and a seq up to which the caller
--            has seen messages ('': none).
-- ARGV: reign of this server, command that publishes.
--
-- A Redis that did not number the newest message itself, in its present reign, was
-- promoted, or restored from its disk. It may lack later messages, and their numbers
-- must not be used again. So it starts a new epoch, and stores the old epoch ("before")
-- and the seq up to which both epochs have the same messages ("base").
--
-- It cannot know what it lacks, but its callers do: if one of them has seen more of
-- that epoch, messages are gone that members elsewhere never got. Then an epoch starts
-- that continues none (its "before" begins with "-"), and all members are told.
--
-- The third result is true if a client was ever told a position in the numbering.
-- Before that, no client can come back, and the room keeps no history. Then follow
-- "before" and "base", or '' and -1.
local function numbered(numbering, history, fresh, seen, upto)
  local server = ARGV[1]
  upto = tonumber(upto)
  local known =
    redis.call('HMGET', numbering, 'epoch', 'seq', 'by', 'told', 'before', 'base')
  local epoch, seq, told = known[1], tonumber(known[2]), known[4]
  local before, base = known[5] or '-', tonumber(known[6])
  if not epoch then
    redis.call('HSET', numbering, 'epoch', fresh, 'seq', 0, 'by', server)
    redis.call('DEL', history)
    return fresh, 0, false, '', -1
  end
  if known[3] ~= server then
    before, base, epoch = epoch, seq, fresh
    redis.call('HSET', numbering, 'epoch', fresh, 'by', server, 'before', before,
      'base', base)
  end
  local gone = seen ~= '' and seen ~= epoch and string.sub(before, 1, 1) ~= '-'
    and not (seen == before and upto <= base)
  if seen == epoch and upto > seq then
    gone, base = true, seq
  end
  if gone then
    redis.call('HSET', numbering, 'epoch', fresh, 'before', '-' .. before, 'base', base)
    redis.call(ARGV[2], numbering, fresh .. ' ' .. seq + 1 .. ' ')
    return fresh, seq, told, '-' .. before, base
  end
  return epoch, seq, told, before == '-' and '' or before, base or -1
end

