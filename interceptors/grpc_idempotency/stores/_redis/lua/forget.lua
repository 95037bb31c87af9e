-- Deletes a record with its steps as an operator decided: a held one, or any but one whose lease holds. Leaves a note.
-- KEYS: value, request, steps, waiters, notes, open, due, done, expiry. ARGV: time, name, fence, 1 if only a held record or
-- empty, note or empty, how long notes are kept.
-- Returns 1 if the record was deleted.
local r, at = head(), now()
if not r or r.fence ~= ARGV[3] or expired(r, at) then return 0 end
if r.state ~= HELD and (ARGV[4] ~= '' or (leased(r) and not lapsed(r, at))) then return 0 end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[7], ARGV[2])
for _, index in ipairs({KEYS[6], KEYS[8], KEYS[9]}) do redis.call('ZREM', index, place(r, ARGV[2])) end
leave(KEYS[5], ARGV[5], at, ARGV[6])
tell(KEYS[4])
return 1
