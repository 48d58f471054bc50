/* Iterator over the TCP sockets of the reader's network namespace: writes those with connections over links whose data waits
 * for a time-out that has doubled, and would wait for it when the path is long back (dataplane/host/unreachable.py). What was
 * never sent, as there was no route to send it by, is sent from here. Included after nat/iterate.c. */
#include <uapi/linux/bpf.h>
#include "common/limits.h"
#include "common/reasons.h"
#include "placement/types.h"
#include "placement/maps.h"
#include "common/iterators.h"
#include "socket/stalled.h"

#define STATES_WITH_DATA (1u << 1 | 1u << 4 | 1u << 8 | 1u << 9 | 1u << 11) /* those whose data, or FIN, may wait */
#define OFF_STATE 18 /* of struct sock_common, which begins as a socket's identity for look-ups does */
#define LEVEL_TCP 6
#define OPTION_NODELAY 1

struct sock_common;
/* As the kernel has it: the pointers' types come from the kernel's BTF, by position. */
struct bpf_iter__tcp {
    struct bpf_iter_meta *meta;
    struct sock_common *sk;
    __u64 uid;
};

static long (*option_set)(void *sk, int level, int option, void *value, int size) = (void *)BPF_FUNC_setsockopt;
static long (*option_get)(void *sk, int level, int option, void *value, int size) = (void *)BPF_FUNC_getsockopt;

/* Where a member lies is the loader's to say (loader/constants.py). */
#define KERNEL_READ(_type, _from, _offset) \
    ({ \
        _type _value = 0; \
        bpf_probe_read_kernel(&_value, sizeof(_value), (void *)(_from) + (_offset)); \
        _value; \
    })

/* Whether the program that has the socket asked to see errors of the network (IP_RECVERR, IPV6_RECVERR). */
static __always_inline int socket_sees_errors(void *sk, int v6)
{
    void *flags = sk;

    if (!v6)
        return KERNEL_READ(__u8, sk, OFF_RECVERR4_BYTE) >> OFF_RECVERR4_BIT & 1;
    if (OFF_PINET6) /* before Linux 6.7 it lies with what a socket has of IPv6 alone */
        flags = (void *)KERNEL_READ(__u64, sk, OFF_PINET6);
    return KERNEL_READ(__u8, flags, OFF_RECVERR6_BYTE) >> OFF_RECVERR6_BIT & 1;
}

/* Have TCP send what waits: said again, TCP_NODELAY sends at once. The socket is locked, so nobody sees it change. */
static __always_inline int socket_push(void *sk)
{
    int before = 0, on = 1;

    if (option_get(sk, LEVEL_TCP, OPTION_NODELAY, &before, sizeof(before)) ||
        option_set(sk, LEVEL_TCP, OPTION_NODELAY, &on, sizeof(on)))
        return 0;
    if (!before)
        option_set(sk, LEVEL_TCP, OPTION_NODELAY, &before, sizeof(before));
    return 1;
}

/* Where the connection of a socket that is placed by its packets leads (socket/bound.h); return -1 for any other. */
static __always_inline int socket_follow(struct stalled_record *record)
{
    struct nat_key key = {.protocol = PROTO_TCP};
    struct nat_flow *flow;

    address_copy(key.from, record->from);
    address_copy(key.to, record->to);
    key.from_port = __builtin_bswap16(record->from_port);
    key.to_port = __builtin_bswap16(record->to_port);
    flow = nat_flows_v1.lookup(&key);
    if (!flow || KIND_OF(state_read(flow)) != KIND_REMOTE)
        return -1;
    address_copy(record->far, flow->to);
    return 0;
}

/* Fill in all addresses, IPv4 as ::ffff:a.b.c.d; return whether packets are IPv6, -1 where they do not go over links. */
static __always_inline int socket_addresses(void *sk, const struct config *config, struct stalled_record *record)
{
    struct { __u32 daddr; __u32 saddr; __u32 hash; __u16 dport; __u16 port; __u16 family; } head = {};
    struct { __u32 to[4]; __u32 from[4]; } six = {};
    int v6, ours;

    bpf_probe_read_kernel(&head, sizeof(head), sk);
    record->from_port = head.port;
    record->to_port = __builtin_bswap16(head.dport);
    if (head.family == AF_INET6_)
        bpf_probe_read_kernel(&six, sizeof(six), sk + OFF_RCV_SADDR6 - sizeof(six.to));
    v6 = head.family == AF_INET6_ && (six.from[0] || six.from[1] || six.from[2] != MAPPED_PREFIX);
    if (v6) {
        address_copy(record->from, six.from);
        address_copy(record->to, six.to);
        ours = (six.from[0] | six.from[1]) && six.from[0] == config->overlay6[0] && six.from[1] == config->overlay6[1] &&
               six.from[2] == config->overlay6[2] && six.from[3] == config->overlay6[3];
    } else {
        record->from[2] = record->to[2] = MAPPED_PREFIX;
        record->from[3] = head.saddr;
        record->to[3] = head.daddr;
        ours = head.saddr && head.saddr == config->overlay4;
    }
    if (ours)
        address_copy(record->far, record->to);
    else if (socket_follow(record))
        return -1;
    return v6;
}

int bpf_iter__tcp(struct bpf_iter__tcp *ctx)
{
    void *sk = ctx->sk;
    struct stalled_record record = {};
    __u32 zero = 0, una, next;
    struct config *config = config_v1.lookup(&zero);
    int v6;

    if (!sk || !config)
        return 0;
    if (!(1u << (KERNEL_READ(__u8, sk, OFF_STATE) & 31) & STATES_WITH_DATA)) /* nor is it a whole socket, else */
        return 0;
    record.backoff = KERNEL_READ(__u8, sk, OFF_BACKOFF);
    if (!record.backoff)
        return 0;
    v6 = socket_addresses(sk, config, &record);
    if (v6 < 0)
        return 0;
    una = KERNEL_READ(__u32, sk, OFF_SND_UNA);
    next = KERNEL_READ(__u32, sk, OFF_SND_NXT);
    record.sequence = una;
    if (KERNEL_READ(__u32, sk, OFF_PACKETS_OUT)) {
        if (!KERNEL_READ(__u8, sk, OFF_RETRANSMITS))
            return 0;
        record.what = socket_sees_errors(sk, v6) ? STALLED_SEES_ERRORS : STALLED_SENT;
    } else {
        /* a window that is closed is opened by nobody but the peer */
        if (KERNEL_READ(__u32, sk, OFF_WRITE_SEQ) == next || KERNEL_READ(__u32, sk, OFF_SND_WND) == next - una ||
            !socket_push(sk))
            return 0;
        record.what = STALLED_PUSHED;
    }
    bpf_seq_write(((struct iter_meta *)ctx->meta)->seq, &record, sizeof(record));
    return 0;
}
