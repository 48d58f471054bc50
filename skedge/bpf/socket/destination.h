/* Which listener the destination of a connect or a datagram is. */
#ifndef SKEDGE_SOCKET_DESTINATION_H
#define SKEDGE_SOCKET_DESTINATION_H

#include "common/lan_prefixes.h"
#include "placement/any_address.h"

/* Whether a socket is bound to this very address of 127.0.0.0/8, such as a resolver's to 127.0.0.53: as in the kernel, it
 * goes before what is on every address. */
static __always_inline int loopback_is_bound(struct bpf_sock_addr *ctx, const struct listener_key *to)
{
    struct bpf_sock_tuple tuple = {};
    struct bpf_sock *sk;
    int bound;

    tuple.ipv4.saddr = tuple.ipv4.daddr = to->addr[3];
    tuple.ipv4.dport = to->port;
    if (to->protocol == PROTO_TCP)
        sk = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
    else
        sk = bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
    if (!sk)
        return 0;
    bound = sk->src_ip4 == to->addr[3];
    bpf_sk_release(sk);
    return bound;
}

/* Return the listener on every address that the destination is, which is no listener's and none of the host's. */
static __always_inline struct listener *sock_lookup_listener_any(struct bpf_sock_addr *ctx,
                                                                 const struct listener_key *to)
{
    struct listener *listener;

    if (!listener_key_is_loopback4(to))
        return address_is_of_host(to) ? listener_lookup_any(to) : 0;
    listener = listener_lookup_any(to);
    return listener && !loopback_is_bound(ctx, to) ? listener : 0;
}

/* Return the listener that the destination is, 0 for none: also for sockets of another namespace and for our own. */
static __always_inline struct listener *sock_lookup_listener(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
                                                             struct config *config, struct listener_key *to)
{
    __u16 port = __builtin_bswap16(to->port);
    __u32 word = port >> 6 | (to->protocol == PROTO_UDP ? PORT_WORDS / 2 : 0);
    __u64 *ports = ports_v1.lookup(&word);
    struct listener *listener;

    if (!ports || !(*ports >> (port & 63) & 1))
        return 0;
    listener = listeners_v2.lookup(to);
    if (!listener)
        listener = sock_lookup_listener_any(ctx, to);
    if (!listener || sk->mark == OWN_MARK || bpf_get_netns_cookie(ctx) != config->netns_cookie)
        return 0;
    return listener;
}

#endif
