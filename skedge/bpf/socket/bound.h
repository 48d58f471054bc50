/* Sockets that are bound to an address which cannot leave this host as it is (HAProxy `source`, nginx `proxy_bind`,
 * `curl --interface`): another site could not answer it. They are not placed when they connect, but by their first
 * packet, which goes over lo to the listener's address and is led from there as a LAN client's is (nat/loopback.c). */
#ifndef SKEDGE_SOCKET_BOUND_H
#define SKEDGE_SOCKET_BOUND_H

#define SOL_SOCKET_ 1
#define SO_MARK_ 36
#define LOOPBACK_DEVICE 1

/* Leave a socket to its packets. Returns whether that can be: where packets of the LAN are led, and none but lo is asked
 * for. A TCP socket's packets are known by their mark, a UDP socket's by the socket. */
static __always_inline int sock_leave_to_packets(struct bpf_sock_addr *ctx, struct bpf_sock *sk,
                                                 const struct request *request)
{
    __u32 zero = 0, mark = BOUND_MARK;
    struct nat_config *nat = nat_config_v1.lookup(&zero);
    struct placement *placement;

    if (!request->bound || !nat || !nat->device || (sk->bound_dev_if && sk->bound_dev_if != LOOPBACK_DEVICE))
        return 0;
    placement = placement_create(sk);
    if (!placement)
        return 0;
    placement->reason = REASON_SOURCE_BOUND;
    if (request->to.protocol != PROTO_TCP) {
        placement_say_v1(sk, REASON_SOURCE_BOUND);
        return 1;
    }
    return !bpf_setsockopt(ctx, SOL_SOCKET_, SO_MARK_, &mark, sizeof(mark));
}

#endif
