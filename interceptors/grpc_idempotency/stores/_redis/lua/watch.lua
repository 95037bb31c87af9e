-- Registers a process that waits for the ends of runs. Whoever ends one publishes to the process's channel.
-- KEYS: waiters of operations of one tag. ARGV: time, the channel, how long the registration holds.
-- A server whose memory is full refuses it; then the process learns of the ends by its polls alone.
for _, key in ipairs(KEYS) do
  redis.pcall('SADD', key, ARGV[2])
  redis.pcall('PEXPIRE', key, ARGV[3])
end
return false
