-- Sends the raw requests of a file one after the other and counts the answers by status.
--
-- wrk ... URL -- FILE once|cycle STATUS
-- FILE holds each request as its length in a line of its own, then its bytes. With "once" every
-- request is sent once, and the window ends early when all were; the body of the first answer of
-- another status than STATUS is shown. The last line of the output is
-- what load.py reads.

local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long ns; } moment; int clock_gettime(int clock, moment *at);")
local at = ffi.new("moment")

local function now()
  ffi.C.clock_gettime(1, at) -- CLOCK_MONOTONIC of Linux
  return tonumber(at.s) + tonumber(at.ns) / 1e9
end

local thread
local requests, calls = {}, 0
-- Global, so that done() can ask the thread for them.
sent, exhausted, started, ended, sample = 0, 0, 0, 0, ""
statuses = {}

function setup(made)
  thread = made
end

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  for length in file:lines() do
    requests[#requests + 1] = file:read(tonumber(length))
  end
  file:close()
  once = arguments[2] == "once"
  expected = tonumber(arguments[3])
end

function request()
  calls = calls + 1
  if calls == 1 then
    return requests[1] -- wrk calls it once to see what it gives, and sends nothing
  end
  if started == 0 then
    started = now()
  end
  if once and sent == #requests then
    exhausted = 1
    wrk.thread:stop()
    return "GET /public HTTP/1.1\r\nHost: localhost\r\n\r\n" -- nobody reads the answer
  end
  sent = sent + 1
  return requests[(sent - 1) % #requests + 1]
end

function response(status, headers, body)
  ended = now()
  local name = tostring(status)
  statuses[name] = (statuses[name] or 0) + 1
  if status ~= expected and sample == "" then
    sample = name .. " " .. body:sub(1, 300)
  end
end

function done(summary, latency)
  local parts = {}
  for status, count in pairs(thread:get("statuses")) do
    parts[#parts + 1] = string.format('"%s": %d', status, count)
  end
  local errors = summary.errors
  print(string.format(
    '{"sent": %d, "exhausted": %d, "seconds": %.6f, "p50": %d, "p99": %d, "failed": %d, '
      .. '"statuses": {%s}, "sample": "%s"}',
    thread:get("sent"),
    thread:get("exhausted"),
    math.max(0, thread:get("ended") - thread:get("started")),
    latency:percentile(50),
    latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.timeout,
    table.concat(parts, ", "),
    (thread:get("sample"):gsub("[^%w %p]", " "):gsub('["\\]', "'"))
  ))
end
