"""Where everything stands in the board's shared memory.

The board is an array of 64-bit words: a header, endpoint cells (health is written by control, the
breaker and what is counted for it by whoever holds the cell's lock), the table of limiter times
(written by every worker, without a lock), then one slab per worker process (written by that worker
alone, so that no update needs a lock, counts outlive a killed worker, and sums need no messages).

Standard library only: the supervisor maps it too. All offsets are in words.
"""

from __future__ import annotations

MAGIC = 0x6777_626F_6172_6431  # "gwboard1"
LAYOUT = 3

WORD = 8

# --- header -----------------------------------------------------------------------------------
H_MAGIC = 0
H_LAYOUT = 1
H_SLABS = 2
H_SUPERVISOR_PID = 3
H_SUPERVISOR_STARTED = 4  # CLOCK_MONOTONIC, nanoseconds
H_CONTROL_PID = 5
H_CONTROL_STARTED = 6
H_CONTROL_HEARTBEAT = 7  # CLOCK_MONOTONIC, nanoseconds
H_CONTROL_STATE = 8  # a STATE_* of below
H_CONTROL_RESTARTS = 9
H_WORKER_RESTARTS = 10
H_SLOTS = 11  # worker slots that the supervisor keeps filled
H_LEAVING = 12  # 1 once the supervisor was told to end: nobody is to send new traffic here
H_RELOADS = 13  # reloads that a signal asked for and control has ended (counter, control's)
H_RELOADS_REFUSED = 14  # of these, refused
H_CONTROL_STALL_MAX = 15  # longest stall of control's loop seen, nanoseconds
H_CONTROL_TASKS = 16  # tasks of control's loop that are not done (gauge)
#: Octets of chance by which the limiter's keys are hashed: nobody outside can aim at a place.
H_LIMIT_SECRET = 40
LIMIT_SECRET_WORDS = 4
HEADER_WORDS = 64

# --- endpoint cells ---------------------------------------------------------------------------
MAX_ENDPOINTS = 2048
CELL_HEALTH = 0
CELL_CHANGED = 1  # CLOCK_MONOTONIC, nanoseconds
CELL_PASSES = 2  # L2 passes in a row (control writes)
CELL_BREAKER = 3  # a BREAKER_* of below
CELL_BREAKER_CHANGED = 4  # CLOCK_MONOTONIC, nanoseconds
CELL_RUN = 5  # failures in a row
CELL_OPENINGS = 6  # openings in a row, by which the time until the next probe grows
CELL_OPENED = 7  # openings (counter)
CELL_PASSES_BEFORE = 8  # CELL_PASSES when it opened
CELL_UNREACHED = 9  # 1 where the last failure was to connect at all
CELL_EJECTED_UNTIL = 10  # CLOCK_MONOTONIC, nanoseconds; 0: not ejected
CELL_EJECTIONS = 11  # ejections that the next one's length grows by
CELL_WARM_FROM = 12  # CLOCK_MONOTONIC, nanoseconds: slow start began; 0: none
#: The window that shares of failures are counted over: when its current half began, and the
#: endpoint's requests and failures at the begin of the half before and of this one.
CELL_WINDOW = 13
CELL_BEFORE = 14
CELL_HALF = 16
CELL_EARLY = 18  # tries ahead of time that have failed since it opened
CELL_WORDS = 32

BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN, BREAKER_FORCED = 0, 1, 2, 3
BREAKER_NAMES = ("closed", "open", "half_open", "forced_open")

UNKNOWN, UP, DOWN = 0, 1, 2
HEALTH_NAMES = ("unknown", "up", "down")

CELLS_AT = HEADER_WORDS

# --- limiter times (written by every worker, see gateway.policy.limit) --------------------------
#: 262,144 keys in 4 MiB, of which a system keeps in memory what has been touched.
LIMIT_SETS = 32 * 1024
LIMIT_SET_WORDS = 16
LIMITS_AT = CELLS_AT + MAX_ENDPOINTS * CELL_WORDS

SLABS_AT = LIMITS_AT + LIMIT_SETS * LIMIT_SET_WORDS

# --- slab: header -----------------------------------------------------------------------------
S_PID = 0
S_STARTED = 1  # CLOCK_MONOTONIC, nanoseconds
S_HEARTBEAT = 2  # CLOCK_MONOTONIC, nanoseconds
S_STATE = 3
S_TOPOLOGY = 4
S_TRAFFIC = 5
S_CONNECTIONS = 6  # downstream connections open (gauge)
S_IN_FLIGHT = 7  # requests in flight (gauge)
S_TUNNELS = 8  # tunnels open (gauge)
S_LOG_LOST = 9  # access log lines lost (counter)
S_STALL_MAX = 10  # longest stall of the loop seen, nanoseconds
S_ACCEPTED = 11  # downstream connections accepted (counter)
S_FORCED_STABLE = 12  # 1 while the rollback flag file is in force
S_SLOT = 13
S_NUMBER = 14  # snapshot number served
S_REFUSED = 15  # requests refused by the framing rules (counter)
S_NOT_ACCEPTING = 30  # 1 while no descriptors are left for another client (gauge)
S_ACCEPT_PAUSES = 31  # how often that began (counter)
S_CONNECTIONS_SHED = 16  # connections over the machine's bound, closed at once (counter)
S_TLS_FULL = 24  # handshakes done, in full (counter)
S_TLS_RESUMED = 25  # handshakes that resumed a session (counter)
S_TLS_FAILED = 26  # handshakes that were not done (counter)
#: What a worker holds, counted once a second (gauges): tasks of its loop that are not done, places
#: taken on its timer wheel, connections to backends with and without a request.
S_TASKS = 32
S_TIMERS = 33
S_UPSTREAM_BUSY = 34
S_UPSTREAM_IDLE = 35
#: Writes to the cache (counter, from a number drawn at the start): while no worker's moves, what
#: was read of the cache is what is there.
S_CACHE_WRITES = 20
S_CACHE_FAILED = 21  # writes to the cache that failed (counter); right behind the one before
#: What authentication came to (counters), in the order of AUTH_RESULTS.
S_AUTH = 40
SLAB_HEADER_WORDS = 64

#: Admitted; let through without credentials; without credentials where some are asked for; with
#: ones that do not count; verified and not allowed this; refused for its address; not to be told,
#: for the issuer's keys were never read.
AUTH_RESULTS = (
    "admitted", "anonymous", "missing", "invalid", "forbidden", "address", "unavailable"
)  # fmt: skip

STATE_FREE, STATE_STARTING, STATE_READY, STATE_DRAINING, STATE_GONE = 0, 1, 2, 3, 4
STATE_NAMES = ("free", "starting", "ready", "draining", "gone")

# --- slab: one row per service ----------------------------------------------------------------
#: Row 0 belongs to requests that no service was found for.
MAX_SERVICES = 256

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "other")
#: ``none``: the client left before an answer began.
CODE_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx", "none")
#: How the cache met a request: by a fresh copy; by the backend; by a stale copy; by a copy that the
#: backend confirmed; by the backend, for it is not the cache's; by another request's answer.
CACHE_RESULTS = ("hit", "miss", "stale", "revalidated", "bypass", "coalesced")
#: Why a request was refused for load: there was no place for it, in flight or in the queue; it
#: waited for as long as it may.
SHED_REASONS = ("full", "waited")
#: What a content policy's violations are told apart by; what is none of these is the last.
CSP_DIRECTIVES = (
    "default-src",
    "script-src",
    "style-src",
    "img-src",
    "font-src",
    "connect-src",
    "media-src",
    "frame-src",
    "frame-ancestors",
    "form-action",
    "base-uri",
    "other",
)
#: Upper bounds of the histograms' buckets in milliseconds; one more for everything above.
BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 30000, 60000)
HISTOGRAM_WORDS = len(BOUNDS_MS) + 1 + 1  # buckets (not cumulative), then the sum in microseconds

SIDE_REQUESTS = 0
SIDE_REQUEST_SECONDS = len(METHODS) * len(CODE_CLASSES)
SIDE_UPSTREAM_SECONDS = SIDE_REQUEST_SECONDS + HISTOGRAM_WORDS
SIDE_WORDS = 96

SIDES = 4  # side = role * 2 + color; role: stable 0, candidate 1; color: blue 0, green 1
ROW_RETRIES = SIDES * SIDE_WORDS
ROW_RESCUES = ROW_RETRIES + 1
ROW_FALLBACKS = ROW_RETRIES + 2  # stale, static
ROW_CACHE = ROW_RETRIES + 4  # in the order of CACHE_RESULTS
ROW_RATE_LIMITED = ROW_RETRIES + 10
ROW_IN_FLIGHT = ROW_RETRIES + 11  # gauge
ROW_ASSET_SECOND_TRIES = ROW_RETRIES + 12
ROW_WAITING = ROW_RETRIES + 13  # requests that wait for a place in flight (gauge)
#: Requests refused for load, in the order of SHED_REASONS (counters).
ROW_SHED = ROW_RETRIES + 14
#: When the worker last refused one for load: CLOCK_MONOTONIC, nanoseconds.
ROW_REFUSED_AT = ROW_RETRIES + 16
ROW_RATE_LIMITED_DRY = ROW_RETRIES + 20  # would have been, by a limit on trial
#: Reports of violations: by color (blue, green), of each by CSP_DIRECTIVES.
ROW_CSP = ROW_RETRIES + 32
ROW_WORDS = ROW_RETRIES + 64

ROWS_AT = SLAB_HEADER_WORDS  # within a slab

# --- slab: one pair per endpoint --------------------------------------------------------------
ENDPOINT_IN_FLIGHT = 0  # requests and tunnels (gauge)
ENDPOINT_TUNNELS = 1  # of these, tunnels (gauge)
ENDPOINT_REQUESTS = 2  # attempts begun (counter)
ENDPOINT_FAILURES = 3  # attempts failed, as the breaker counts (counter)
ENDPOINT_WORDS = 4
ENDPOINTS_AT = ROWS_AT + MAX_SERVICES * ROW_WORDS
SLAB_WORDS = ENDPOINTS_AT + MAX_ENDPOINTS * ENDPOINT_WORDS


def cell_at(cell: int) -> int:
    """Return where an endpoint's cell begins."""
    return CELLS_AT + cell * CELL_WORDS


def slab_at(slab: int) -> int:
    """Return where a slab begins."""
    return SLABS_AT + slab * SLAB_WORDS


def board_bytes(slabs: int) -> int:
    """Return the board's size in octets for that many slabs."""
    return slab_at(slabs) * WORD


def side_index(candidate: bool, green: bool) -> int:
    """Return the place of a role and color among a row's sides."""
    return (2 if candidate else 0) + (1 if green else 0)
