/* loadgen: offers requests to NATS servers, keeps a fixed number of them outstanding, and times the answers.
 *
 * One thread, one epoll set, memory bounded by connections x outstanding. Connections go round robin over the ports.
 * Every outstanding request is a *slot* of a connection; a slot's request is answered on its own reply subject, and the
 * answer starts the slot's next request. bench/loadgen.py builds this file and reads the one line of JSON it prints.
 *
 *   -m request        publish the payload to the subject, wait for the answer (SEND, CREATE, JetStream publish)
 *   -m fetch-ack      FETCH from the mailbox -a in group -g, ACK the last message handed out; the pair is one operation
 *   -m js-fetch-ack   the same with a JetStream pull consumer: -s is its MSG.NEXT subject; the ack is itself a request
 *
 *   -p PORT[,PORT...]  -H ADDRESS   -c connections  -o outstanding on each
 *   -n operations and/or -t seconds, whichever ends first
 *   -s subject template    -P payload template, or -b bytes of filler    -h 'Name: value' header line of the request
 *   -x text that an answer must contain to count as done; anything else counts as an error, never as an operation
 *   -k messages per FETCH  -a address template  -g group name
 *   Templates know %c (connection), %s (slot), %i (operation number, from -f), %m (that modulo -M),
 *   %r (random below -M), %% (percent sign).
 *
 * Exit status: 0 all was measured (errors are counted in the line), 1 cannot connect, 2 usage, 3 the server stalled or
 * hung up.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    PORTS_MAX = 16,
    CONNECTIONS_MAX = 20000,         /* file descriptors of one process */
    OUTSTANDING_MAX = 100000,        /* per connection */
    REPLY_BYTES_MAX = 64 << 20,      /* eight times the largest answer of the protocol */
    ACK_SUBJECT_BYTES = 256,         /* JetStream: $JS.ACK.<stream>.<consumer>.<numbers> */
    EVENTS_PER_TURN = 256,
    STALL_SECONDS = 10,              /* longer without any answer is no measurement any more */
    ERRORS_SHOWN = 3,                /* the first wrong answers, on stderr */
    ERROR_BYTES_SHOWN = 300,
    BUCKETS_PER_OCTAVE = 64,         /* latencies are kept to within 1.6 % */
    OCTAVES = 40,                    /* of nanoseconds: up to 18 minutes */
};

enum mode { REQUEST, FETCH_ACK, JS_FETCH_ACK };
enum phase { IDLE, AWAIT_ANSWER, AWAIT_MESSAGES, AWAIT_ACK };

struct options {
    enum mode mode;
    const char *host, *subject, *payload, *address, *group, *expect;
    char header[1024];
    int ports[PORTS_MAX], port_count;
    int connections, outstanding, batch;
    int64_t operations, first_operation, modulus;
    double seconds;
};

struct buffer {
    char *bytes;
    size_t start, end, capacity;
};

struct slot {
    enum phase phase;
    int64_t started_ns;
    int received;                         /* js-fetch-ack: messages of this batch so far */
    char ack_subject[ACK_SUBJECT_BYTES];  /* js-fetch-ack: of the last message */
};

struct connection {
    int fd, number;
    bool wants_write;
    struct buffer in, out;
    struct slot *slots;
};

struct histogram {
    int64_t counts[OCTAVES * BUCKETS_PER_OCTAVE];
    int64_t total, max_ns;
};

struct run {
    struct options options;
    struct connection *connections;
    struct histogram latencies;
    int epoll;
    int64_t issued, done, errors, messages, outstanding;
    int64_t began_ns, ends_ns, last_answer_ns;
    bool drained;                         /* a FETCH found nothing: from here only the supply would be measured */
    uint64_t random;
    struct buffer body;                   /* scratch: the payload being rendered */
    struct buffer subject;                /* scratch: the subject being rendered */
};

struct message {                          /* one MSG or HMSG, pointing into the input buffer */
    const char *subject, *reply, *content;
    size_t subject_bytes, reply_bytes, content_bytes;
    int64_t sid;
    bool has_headers;
};

static void fail(int status, const char *what) {
    fprintf(stderr, "loadgen: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(status);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- buffers ---- */

static void reserve(struct buffer *buffer, size_t more) {
    if (buffer->start == buffer->end)
        buffer->start = buffer->end = 0;
    if (buffer->end + more <= buffer->capacity)
        return;
    buffer->capacity = (buffer->end + more) * 2;
    buffer->bytes = realloc(buffer->bytes, buffer->capacity);
    if (!buffer->bytes)
        fail(3, "out of memory");
}

static void put(struct buffer *buffer, const char *bytes, size_t count) {
    reserve(buffer, count);
    memcpy(buffer->bytes + buffer->end, bytes, count);
    buffer->end += count;
}

static void put_text(struct buffer *buffer, const char *text) { put(buffer, text, strlen(text)); }

static void put_number(struct buffer *buffer, int64_t number) {
    char digits[24], *end = digits + sizeof digits, *p = end;
    do
        *--p = (char)('0' + number % 10);
    while (number /= 10);
    put(buffer, p, (size_t)(end - p));
}

/* xorshift64: the same load in every run */
static int64_t next_random(struct run *run) {
    run->random ^= run->random << 13;
    run->random ^= run->random >> 7;
    run->random ^= run->random << 17;
    return (int64_t)(run->random >> 1);
}

static void put_template(struct run *run, struct buffer *buffer, const char *template, const struct connection *c,
                         int slot, int64_t operation) {
    for (const char *p = template; *p;) {
        size_t plain = strcspn(p, "%");
        put(buffer, p, plain);
        p += plain;
        if (!*p)
            return;
        switch (p[1]) {
        case 'c': put_number(buffer, c->number); break;
        case 's': put_number(buffer, slot); break;
        case 'i': put_number(buffer, operation); break;
        case 'm': put_number(buffer, operation % run->options.modulus); break;
        case 'r': put_number(buffer, next_random(run) % run->options.modulus); break;
        case '%': put(buffer, "%", 1); break;
        default: errno = 0; fail(2, "unknown % in a template");
        }
        p += 2;
    }
}

/* ---- latencies ---- */

static int bucket_of(int64_t ns) {
    if (ns < BUCKETS_PER_OCTAVE)
        return ns < 0 ? 0 : (int)ns;
    int octave = 63 - __builtin_clzll((uint64_t)ns) - 6; /* 6 = log2(BUCKETS_PER_OCTAVE) */
    if (octave > OCTAVES - 2)
        return OCTAVES * BUCKETS_PER_OCTAVE - 1;
    return (octave + 1) * BUCKETS_PER_OCTAVE + (int)((ns >> octave) - BUCKETS_PER_OCTAVE);
}

static int64_t bucket_top_ns(int bucket) {
    if (bucket < BUCKETS_PER_OCTAVE)
        return bucket;
    int octave = bucket / BUCKETS_PER_OCTAVE - 1;
    return ((int64_t)(bucket % BUCKETS_PER_OCTAVE + BUCKETS_PER_OCTAVE + 1) << octave) - 1;
}

static void observe(struct histogram *histogram, int64_t ns) {
    histogram->counts[bucket_of(ns)]++;
    histogram->total++;
    if (ns > histogram->max_ns)
        histogram->max_ns = ns;
}

static double quantile_us(const struct histogram *histogram, double q) {
    int64_t rank = (int64_t)(q * (double)histogram->total), seen = 0;
    for (int i = 0; i < OCTAVES * BUCKETS_PER_OCTAVE; i++)
        if ((seen += histogram->counts[i]) > rank)
            return (double)(bucket_top_ns(i) < histogram->max_ns ? bucket_top_ns(i) : histogram->max_ns) / 1e3;
    return (double)histogram->max_ns / 1e3;
}

/* ---- requests ---- */

static void clear_scratch(struct run *run) {
    run->subject.start = run->subject.end = run->body.start = run->body.end = 0;
}

static void put_inbox(struct buffer *out, const struct connection *c, int slot) {
    put_text(out, "_INBOX.");
    put_number(out, getpid());
    put(out, ".", 1);
    put_number(out, c->number);
    put(out, ".", 1);
    put_number(out, slot);
}

static void publish(struct run *run, struct connection *c, int slot) {
    const struct buffer *subject = &run->subject, *body = &run->body;
    const char *header = run->options.header;
    size_t header_bytes = strlen(header), body_bytes = body->end - body->start;
    put_text(&c->out, *header ? "HPUB " : "PUB ");
    put(&c->out, subject->bytes + subject->start, subject->end - subject->start);
    put(&c->out, " ", 1);
    put_inbox(&c->out, c, slot);
    put(&c->out, " ", 1);
    if (*header) {
        put_number(&c->out, (int64_t)header_bytes);
        put(&c->out, " ", 1);
    }
    put_number(&c->out, (int64_t)(header_bytes + body_bytes));
    put(&c->out, "\r\n", 2);
    put(&c->out, header, header_bytes);
    put(&c->out, body->bytes + body->start, body_bytes);
    put(&c->out, "\r\n", 2);
}

static void render_request(struct run *run, struct connection *c, int slot, int64_t operation) {
    const struct options *o = &run->options;
    put_template(run, &run->subject, o->subject, c, slot, operation);
    put_template(run, &run->body, o->payload, c, slot, operation);
}

static void render_fetch(struct run *run, struct connection *c, int slot) {
    const struct options *o = &run->options;
    put_text(&run->subject, "$mq9.AI.MSG.FETCH.");
    put_template(run, &run->subject, o->address, c, slot, 0);
    put_text(&run->body, "{\"group_name\":\"");
    put_text(&run->body, o->group);
    put_text(&run->body, "\",\"deliver\":\"earliest\",");
    if (o->outstanding > 1) { /* several on one connection: each is a consumer of its own */
        put_text(&run->body, "\"consumer\":\"");
        put_template(run, &run->body, "c%cs%s", c, slot, 0);
        put_text(&run->body, "\",");
    }
    put_text(&run->body, "\"config\":{\"max_wait_ms\":0,\"num_msgs\":");
    put_number(&run->body, o->batch);
    put_text(&run->body, "}}");
}

static void render_js_fetch(struct run *run, struct connection *c, int slot) {
    put_template(run, &run->subject, run->options.subject, c, slot, 0);
    put_text(&run->body, "{\"no_wait\":true,\"batch\":");
    put_number(&run->body, run->options.batch);
    put_text(&run->body, "}");
}

static void start_operation(struct run *run, struct connection *c, int slot, int64_t now) {
    struct slot *s = &c->slots[slot];
    if (run->drained || run->issued >= run->options.operations || now >= run->ends_ns)
        return;
    int64_t operation = run->options.first_operation + run->issued++;
    clear_scratch(run);
    s->started_ns = now;
    s->received = 0;
    switch (run->options.mode) {
    case REQUEST: render_request(run, c, slot, operation); s->phase = AWAIT_ANSWER; break;
    case FETCH_ACK: render_fetch(run, c, slot); s->phase = AWAIT_MESSAGES; break;
    case JS_FETCH_ACK: render_js_fetch(run, c, slot); s->phase = AWAIT_MESSAGES; break;
    }
    publish(run, c, slot);
    run->outstanding++;
}

static void end_operation(struct run *run, struct connection *c, int slot, int64_t now) {
    c->slots[slot].phase = IDLE;
    run->outstanding--;
    run->last_answer_ns = now;
    start_operation(run, c, slot, now);
}

static void succeed(struct run *run, struct connection *c, int slot, int64_t now) {
    run->done++;
    observe(&run->latencies, now - c->slots[slot].started_ns);
    end_operation(run, c, slot, now);
}

static void count_error(struct run *run, struct connection *c, int slot, const struct message *m, int64_t now) {
    if (run->errors++ < ERRORS_SHOWN)
        fprintf(stderr, "loadgen: wrong answer: %.*s\n",
                (int)(m->content_bytes < ERROR_BYTES_SHOWN ? m->content_bytes : ERROR_BYTES_SHOWN), m->content);
    end_operation(run, c, slot, now);
}

/* ---- answers ---- */

static bool contains(const struct message *m, const char *text) {
    return memmem(m->content, m->content_bytes, text, strlen(text)) != NULL;
}

/* The last message's id stands behind the last "msg_id": payloads are base64, so the text cannot occur in them. */
static const char *last_msg_id(const struct message *m, int *count) {
    static const char field[] = "\"msg_id\":";
    const char *found = NULL, *p = m->content, *end = m->content + m->content_bytes;
    while ((p = memmem(p, (size_t)(end - p), field, sizeof field - 1))) {
        found = p += sizeof field - 1;
        ++*count;
    }
    return found;
}

static void put_handout(struct buffer *body, const struct message *m) {
    static const char field[] = "\"handout\":\"";
    const char *handout = memmem(m->content, m->content_bytes, field, sizeof field - 1);
    if (!handout)
        return;
    const char *id = handout + sizeof field - 1;
    const char *quote = memchr(id, '"', (size_t)(m->content + m->content_bytes - id));
    if (quote) {
        put(body, ",", 1);
        put(body, handout, (size_t)(quote + 1 - handout));
    }
}

static void on_fetched(struct run *run, struct connection *c, int slot, const struct message *m, int64_t now) {
    int count = 0;
    const char *id = last_msg_id(m, &count);
    if (!contains(m, run->options.expect)) {
        count_error(run, c, slot, m, now);
        return;
    }
    if (!id) {
        run->drained = true;
        end_operation(run, c, slot, now);
        return;
    }
    clear_scratch(run);
    put_text(&run->subject, "$mq9.AI.MSG.ACK.");
    put_template(run, &run->subject, run->options.address, c, slot, 0);
    put_text(&run->body, "{\"group_name\":\"");
    put_text(&run->body, run->options.group);
    put_text(&run->body, "\",\"msg_id\":");
    put(&run->body, id, strspn(id, "0123456789"));
    put_handout(&run->body, m);
    put_text(&run->body, "}");
    publish(run, c, slot);
    c->slots[slot].phase = AWAIT_ACK;
    run->messages += count;
}

static void on_js_message(struct run *run, struct connection *c, int slot, const struct message *m, int64_t now) {
    struct slot *s = &c->slots[slot];
    if (!m->reply_bytes) { /* a status line instead of a message: 404 and 408 say that nothing is left */
        if (m->has_headers && (contains(m, "NATS/1.0 404") || contains(m, "NATS/1.0 408"))) {
            run->drained = true;
            end_operation(run, c, slot, now);
        } else
            count_error(run, c, slot, m, now);
        return;
    }
    if (m->reply_bytes >= ACK_SUBJECT_BYTES) {
        errno = 0;
        fail(3, "ack subject too long");
    }
    if (++s->received < run->options.batch)
        return;
    clear_scratch(run);
    put(&run->subject, m->reply, m->reply_bytes);
    put_text(&run->body, "+ACK");
    publish(run, c, slot);
    s->phase = AWAIT_ACK;
    run->messages += run->options.batch;
}

static void on_answer(struct run *run, struct connection *c, int slot, const struct message *m, int64_t now) {
    switch (c->slots[slot].phase) {
    case IDLE:
        return; /* a late status line of a pull that was already complete */
    case AWAIT_MESSAGES:
        (run->options.mode == FETCH_ACK ? on_fetched : on_js_message)(run, c, slot, m, now);
        return;
    case AWAIT_ACK: {
        bool refused = run->options.mode == JS_FETCH_ACK ? m->content_bytes > 0 : !contains(m, run->options.expect);
        if (refused)
            count_error(run, c, slot, m, now);
        else
            succeed(run, c, slot, now);
        return;
    }
    case AWAIT_ANSWER:
        if (contains(m, run->options.expect))
            succeed(run, c, slot, now);
        else
            count_error(run, c, slot, m, now);
    }
}

/* ---- the NATS line protocol, as far as answers need it ---- */

static int64_t number_of(const char *digits, size_t count) {
    int64_t number = 0;
    for (size_t i = 0; i < count && digits[i] >= '0' && digits[i] <= '9'; i++)
        number = number * 10 + (digits[i] - '0');
    return number;
}

/* Parses "MSG subject sid [reply] bytes" and "HMSG subject sid [reply] header-bytes bytes". */
static void parse_message_line(const char *line, const char *end, struct message *m) {
    const char *fields[6];
    size_t lengths[6];
    int count = 0;
    for (const char *p = line; p < end && count < 6;) {
        const char *space = memchr(p, ' ', (size_t)(end - p));
        const char *stop = space ? space : end;
        if (stop > p) {
            fields[count] = p;
            lengths[count++] = (size_t)(stop - p);
        }
        p = stop + 1;
    }
    m->has_headers = line[0] == 'H';
    int without_reply = m->has_headers ? 5 : 4;
    if (count < without_reply) {
        errno = 0;
        fail(3, "a message line that cannot be read");
    }
    m->subject = fields[1];
    m->subject_bytes = lengths[1];
    m->sid = number_of(fields[2], lengths[2]);
    m->reply = count > without_reply ? fields[3] : NULL;
    m->reply_bytes = count > without_reply ? lengths[3] : 0;
    m->content_bytes = (size_t)number_of(fields[count - 1], lengths[count - 1]);
}

/* JetStream delivers under the message's own subject, so there each slot has a subscription of its own. */
static int slot_of(const struct run *run, const struct message *m) {
    if (run->options.mode == JS_FETCH_ACK)
        return (int)m->sid - 1;
    const char *dot = memrchr(m->subject, '.', m->subject_bytes);
    return dot ? (int)number_of(dot + 1, (size_t)(m->subject + m->subject_bytes - dot - 1)) : -1;
}

static void on_control_line(struct connection *c, const char *line, size_t length) {
    if (length >= 4 && !memcmp(line, "PING", 4))
        put_text(&c->out, "PONG\r\n");
    else if (*line == '-') {
        fprintf(stderr, "loadgen: %.*s\n", (int)length, line);
        exit(3);
    }
}

static void read_answers(struct run *run, struct connection *c) {
    struct buffer *in = &c->in;
    int64_t now = now_ns();
    while (in->start < in->end) {
        const char *line = in->bytes + in->start;
        size_t available = in->end - in->start;
        const char *newline = memchr(line, '\n', available);
        if (!newline)
            return;
        size_t line_bytes = (size_t)(newline + 1 - line);
        if (*line != 'M' && *line != 'H') {
            on_control_line(c, line, line_bytes);
            in->start += line_bytes;
            continue;
        }
        struct message m;
        parse_message_line(line, newline - 1, &m);
        if (m.content_bytes > REPLY_BYTES_MAX) {
            errno = 0;
            fail(3, "an answer larger than any should be");
        }
        if (available < line_bytes + m.content_bytes + 2)
            return;
        m.content = newline + 1;
        int slot = slot_of(run, &m);
        if (slot < 0 || slot >= run->options.outstanding) {
            errno = 0;
            fail(3, "an answer to nobody");
        }
        on_answer(run, c, slot, &m, now);
        in->start += line_bytes + m.content_bytes + 2;
    }
}

/* ---- sockets ---- */

static void watch(struct run *run, struct connection *c, int operation, bool writes) {
    struct epoll_event event = {.events = EPOLLIN | (writes ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(run->epoll, operation, c->fd, &event);
    c->wants_write = writes;
}

static void flush(struct run *run, struct connection *c) {
    struct buffer *out = &c->out;
    while (out->start < out->end) {
        ssize_t sent = send(c->fd, out->bytes + out->start, out->end - out->start, MSG_NOSIGNAL);
        if (sent >= 0)
            out->start += (size_t)sent;
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR)
            fail(3, "send");
    }
    bool left = out->start < out->end;
    if (left != c->wants_write)
        watch(run, c, EPOLL_CTL_MOD, left);
}

static void receive(struct run *run, struct connection *c) {
    struct buffer *in = &c->in;
    if (in->start && in->start < in->end) { /* a partial answer moves to the front, so that the buffer stays small */
        memmove(in->bytes, in->bytes + in->start, in->end - in->start);
        in->end -= in->start;
        in->start = 0;
    }
    reserve(in, 1 << 16);
    ssize_t got = recv(c->fd, in->bytes + in->end, in->capacity - in->end, 0);
    if (got == 0) {
        errno = 0;
        fail(3, "the server hung up");
    }
    if (got < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return;
        fail(3, "recv");
    }
    in->end += (size_t)got;
    read_answers(run, c);
}

static void subscribe(struct run *run, struct connection *c) {
    bool each = run->options.mode == JS_FETCH_ACK;
    for (int slot = 0; slot < (each ? run->options.outstanding : 1); slot++) {
        put_text(&c->out, "SUB _INBOX.");
        put_number(&c->out, getpid());
        put(&c->out, ".", 1);
        put_number(&c->out, c->number);
        put(&c->out, ".", 1);
        if (each)
            put_number(&c->out, slot);
        else
            put(&c->out, "*", 1);
        put(&c->out, " ", 1);
        put_number(&c->out, slot + 1);
        put(&c->out, "\r\n", 2);
    }
}

static void await_pong(struct connection *c) {
    struct buffer *in = &c->in;
    for (;;) {
        reserve(in, 1 << 16);
        ssize_t got = recv(c->fd, in->bytes + in->end, in->capacity - in->end - 1, 0);
        if (got <= 0)
            fail(1, "the server hung up during the handshake");
        in->end += (size_t)got;
        in->bytes[in->end] = 0;
        if (strstr(in->bytes, "-ERR")) {
            errno = 0;
            fail(1, in->bytes);
        }
        if (strstr(in->bytes, "PONG\r\n"))
            break;
    }
    in->start = in->end = 0;
}

static void open_connection(struct run *run, struct connection *c, int number) {
    const struct options *o = &run->options;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)o->ports[number % o->port_count])};
    int on = 1;
    c->number = number;
    c->slots = calloc((size_t)o->outstanding, sizeof *c->slots);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || !c->slots)
        fail(1, "socket");
    if (inet_pton(AF_INET, o->host, &address.sin_addr) != 1)
        fail(2, "-H takes an IPv4 address");
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address))
        fail(1, "connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    put_text(&c->out, "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,"
                      "\"lang\":\"c\",\"version\":\"1\",\"protocol\":1}\r\n");
    subscribe(run, c);
    put_text(&c->out, "PING\r\n");
    while (c->out.start < c->out.end) { /* still blocking: all of it */
        ssize_t sent = send(c->fd, c->out.bytes + c->out.start, c->out.end - c->out.start, MSG_NOSIGNAL);
        if (sent < 0)
            fail(1, "send");
        c->out.start += (size_t)sent;
    }
    await_pong(c);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    watch(run, c, EPOLL_CTL_ADD, false);
}

/* ---- the run ---- */

static void drive(struct run *run) {
    const struct options *o = &run->options;
    struct epoll_event events[EVENTS_PER_TURN];
    run->began_ns = run->last_answer_ns = now_ns();
    run->ends_ns = o->seconds > 0 ? run->began_ns + (int64_t)(o->seconds * 1e9) : INT64_MAX;
    for (int slot = 0; slot < o->outstanding; slot++)
        for (int i = 0; i < o->connections; i++)
            start_operation(run, &run->connections[i], slot, run->began_ns);
    for (int i = 0; i < o->connections; i++)
        flush(run, &run->connections[i]);
    while (run->outstanding) {
        int count = epoll_wait(run->epoll, events, EVENTS_PER_TURN, 1000);
        if (count < 0 && errno != EINTR)
            fail(3, "epoll_wait");
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
                receive(run, c);
            flush(run, c);
        }
        if (count == 0 && now_ns() - run->last_answer_ns > (int64_t)STALL_SECONDS * 1000000000) {
            fprintf(stderr, "loadgen: stalled with %lld done and %lld outstanding\n", (long long)run->done,
                    (long long)run->outstanding);
            exit(3);
        }
    }
}

static void report(const struct run *run) {
    double seconds = (double)(run->last_answer_ns - run->began_ns) / 1e9;
    const struct histogram *h = &run->latencies;
    printf("{\"operations\":%lld,\"messages\":%lld,\"errors\":%lld,\"drained\":%s,\"seconds\":%.6f,"
           "\"operations_per_s\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f}\n",
           (long long)run->done, (long long)run->messages, (long long)run->errors, run->drained ? "true" : "false",
           seconds, seconds > 0 ? (double)run->done / seconds : 0.0, quantile_us(h, 0.50), quantile_us(h, 0.99),
           (double)h->max_ns / 1e3);
}

static void parse_ports(struct options *o, char *list) {
    for (char *port = strtok(list, ","); port && o->port_count < PORTS_MAX; port = strtok(NULL, ","))
        o->ports[o->port_count++] = atoi(port);
}

static char *filler(int bytes) {
    char *text = malloc((size_t)bytes + 1);
    memset(text, 'x', (size_t)bytes);
    text[bytes] = 0;
    return text;
}

static enum mode mode_of(const char *name) {
    if (!strcmp(name, "request")) return REQUEST;
    if (!strcmp(name, "fetch-ack")) return FETCH_ACK;
    if (!strcmp(name, "js-fetch-ack")) return JS_FETCH_ACK;
    fail(2, "-m takes request, fetch-ack or js-fetch-ack");
    return REQUEST;
}

static void parse_options(struct options *o, int count, char **arguments) {
    *o = (struct options){.host = "127.0.0.1", .subject = "", .payload = "", .address = "", .group = "bench",
                          .expect = "\"error\":\"\"", .connections = 1, .outstanding = 1, .batch = 1, .modulus = 1,
                          .operations = INT64_MAX};
    for (int option; (option = getopt(count, arguments, "m:p:H:c:o:n:t:f:s:P:b:h:x:k:a:g:M:")) > 0;)
        switch (option) {
        case 'm': o->mode = mode_of(optarg); break;
        case 'p': parse_ports(o, optarg); break;
        case 'H': o->host = optarg; break;
        case 'c': o->connections = atoi(optarg); break;
        case 'o': o->outstanding = atoi(optarg); break;
        case 'n': o->operations = atoll(optarg); break;
        case 't': o->seconds = atof(optarg); break;
        case 'f': o->first_operation = atoll(optarg); break;
        case 's': o->subject = optarg; break;
        case 'P': o->payload = optarg; break;
        case 'b': o->payload = filler(atoi(optarg)); break;
        case 'h': snprintf(o->header, sizeof o->header, "NATS/1.0\r\n%s\r\n\r\n", optarg); break;
        case 'x': o->expect = optarg; break;
        case 'k': o->batch = atoi(optarg); break;
        case 'M': o->modulus = atoll(optarg); break;
        case 'a': o->address = optarg; break;
        case 'g': o->group = optarg; break;
        default: exit(2);
        }
    errno = 0;
    if (!o->port_count)
        fail(2, "-p is missing");
    if (o->connections < 1 || o->connections > CONNECTIONS_MAX || o->outstanding < 1 ||
        o->outstanding > OUTSTANDING_MAX || o->batch < 1 || o->modulus < 1)
        fail(2, "-c, -o, -k or -M out of range");
    if (o->operations == INT64_MAX && o->seconds <= 0)
        fail(2, "-n or -t is missing");
}

int main(int count, char **arguments) {
    static struct run run = {.random = 88172645463325252};
    parse_options(&run.options, count, arguments);
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    run.connections = calloc((size_t)run.options.connections, sizeof *run.connections);
    if (run.epoll < 0 || !run.connections)
        fail(1, "set-up");
    for (int i = 0; i < run.options.connections; i++)
        open_connection(&run, &run.connections[i], i);
    drive(&run);
    report(&run);
    return 0;
}
