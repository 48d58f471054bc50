/* What the cgroup programs answer, and whether a call is for a listener at all. */
#ifndef SKEDGE_SOCKET_VERDICTS_H
#define SKEDGE_SOCKET_VERDICTS_H

#define ALLOW 1
#define REFUSE 0

static __always_inline int connect_refuse(int reason)
{
    drops_v1.increment(reason);
    bpf_set_retval(-ERR_CONNREFUSED);
    return REFUSE;
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
    if (!listener || sk->mark == OWN_MARK || bpf_get_netns_cookie(ctx) != config->netns_cookie)
        return 0;
    return listener;
}

#endif
