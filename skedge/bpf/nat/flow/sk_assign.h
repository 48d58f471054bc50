/* Delivery of a LAN client's connection to a listening socket of this host: it gets the SYN as it is, and the socket
 * that comes of it has the listener's address; sock_ops then takes the placement over (socket/connect.c). */
#ifndef SKEDGE_NAT_FLOW_SK_ASSIGN_H
#define SKEDGE_NAT_FLOW_SK_ASSIGN_H

#include "common/own_datagrams.h"

#define STATE_LISTEN 10
#define STATE_TIME_WAIT 6
#define ESOCKTNOSUPPORT 94 /* SO_REUSEPORT, before Linux 6.6 */
#define NOT_ASSIGNABLE 0x1000

/* Fill the tuple that a socket is looked up by. Returns its size. */
INLINE __u32 tuple_fill(struct bpf_sock_tuple *t, const struct lan_packet *p, const __u32 *to, __u16 to_port)
{
    if (p->v6) {
        address_copy(t->ipv6.saddr, p->key.from);
        address_copy(t->ipv6.daddr, to);
        t->ipv6.sport = p->key.from_port;
        t->ipv6.dport = to_port;
        return sizeof(t->ipv6);
    }
    t->ipv4.saddr = p->key.from[3];
    t->ipv4.daddr = to[3];
    t->ipv4.sport = p->key.from_port;
    t->ipv4.dport = to_port;
    return sizeof(t->ipv4);
}

/* Fill the tuple that a packet's own socket, which is on this host, is looked up by. Returns its size. */
INLINE __u32 tuple_fill_back(struct bpf_sock_tuple *t, const struct lan_packet *p)
{
    if (p->v6) {
        address_copy(t->ipv6.saddr, p->key.to);
        address_copy(t->ipv6.daddr, p->key.from);
        t->ipv6.sport = p->key.to_port;
        t->ipv6.dport = p->key.from_port;
        return sizeof(t->ipv6);
    }
    t->ipv4.saddr = p->key.to[3];
    t->ipv4.daddr = p->key.from[3];
    t->ipv4.sport = p->key.to_port;
    t->ipv4.dport = p->key.from_port;
    return sizeof(t->ipv4);
}

/* Whether some socket of this host would take the packet as it is. */
INLINE int socket_exists(struct __sk_buff *skb, const struct lan_packet *p)
{
    struct bpf_sock_tuple t = {};
    __u32 size = tuple_fill(&t, p, p->key.to, p->key.to_port);
    struct bpf_sock *sk;

    if (p->key.protocol == IPPROTO_TCP)
        sk = bpf_skc_lookup_tcp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
    else
        sk = bpf_sk_lookup_udp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
    if (!sk)
        return 0;
    bpf_sk_release(sk);
    return 1;
}

/* Whether a datagram to a listener is an answer to one of the host's own sockets, which has the same port: one that is
 * connected to the sender, or that has sent it something. */
INLINE int udp_socket_asked(struct __sk_buff *skb, const struct lan_packet *p)
{
    struct own_datagram answer = {.from_port = p->key.from_port, .to_port = p->key.to_port};
    struct bpf_sock_tuple t = {};
    struct bpf_sock *sk;
    int connected = 0;
    __u64 *asked;

    address_copy(answer.from, p->key.from);
    asked = own_datagrams_v1.lookup(&answer);
    if (asked && bpf_ktime_get_ns() < *asked + OWN_DATAGRAMS_NS)
        return 1;
    sk = bpf_sk_lookup_udp(skb, &t, tuple_fill(&t, p, p->key.to, p->key.to_port), BPF_F_CURRENT_NETNS, 0);
    if (sk) {
        connected = sk->dst_port != 0;
        bpf_sk_release(sk);
    }
    return connected;
}

/* Refuse a connection. The stack answers it (RST, port unreachable), unless some socket would take it. */
INLINE int connection_refuse(struct __sk_buff *skb, const struct lan_packet *p, __u32 reason)
{
    drops_v1.increment(reason);
    return socket_exists(skb, p) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* Whether the last packet of a handshake answers a SYN cookie of the listener, which then has no request for it. */
INLINE int tcp_answers_cookie(struct __sk_buff *skb, const struct lan_packet *p, struct bpf_sock *sk)
{
    __u8 ip[IP6_LENGTH] = {}, tcp[20];

    if ((p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_ACK || bpf_skb_load_bytes(skb, p->l4, tcp, sizeof(tcp)))
        return 0;
    if (p->v6 ? bpf_skb_load_bytes(skb, p->l3, ip, IP6_LENGTH) : bpf_skb_load_bytes(skb, p->l3, ip, IP4_LENGTH))
        return 0;
    return !bpf_tcp_check_syncookie(sk, ip, p->v6 ? IP6_LENGTH : IP4_LENGTH, tcp, sizeof(tcp));
}

/* Hand the packet to the workload's listening socket. Returns 0, -1 when there is none, or why the kernel refused. */
INLINE int tcp_assign(struct __sk_buff *skb, const struct lan_packet *p, const struct nat_flow *flow)
{
    int fresh = (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN, error = -1;
    struct bpf_sock_tuple t = {};
    struct bpf_sock *sk;

    sk = bpf_skc_lookup_tcp(skb, &t, tuple_fill(&t, p, flow->to, flow->to_port), BPF_F_CURRENT_NETNS, 0);
    if (!sk)
        return -1;
    if (sk->state == STATE_LISTEN && (fresh || tcp_answers_cookie(skb, p, sk)))
        error = bpf_sk_assign(skb, sk, 0);
    bpf_sk_release(sk);
    return error;
}

/* The state of the TCP socket that the packet would reach as it is, 0 for none. */
INLINE int tcp_socket_state(struct __sk_buff *skb, const struct lan_packet *p)
{
    struct bpf_sock_tuple t = {};
    struct bpf_sock *sk;
    int state;

    sk = bpf_skc_lookup_tcp(skb, &t, tuple_fill(&t, p, p->key.to, p->key.to_port), BPF_F_CURRENT_NETNS, 0);
    if (!sk)
        return 0;
    state = sk->state;
    bpf_sk_release(sk);
    return state;
}

/* The first SYN of a connection. While the kernel has an old connection of the same ports in TIME_WAIT, no listener can
 * have it: then, too, it goes over lo, from another port. Returns the verdict, or NOT_ASSIGNABLE. Where nobody listens,
 * the workload is suspended and the stack refuses the client, as a connect of this host would be. */
INLINE int tcp_deliver(struct __sk_buff *skb, struct lan_packet *p, struct nat_flow *flow)
{
    int error, reason;

    if (tcp_socket_state(skb, p) == STATE_TIME_WAIT)
        return NOT_ASSIGNABLE;
    error = tcp_assign(skb, p, flow);
    if (error == -ESOCKTNOSUPPORT)
        return NOT_ASSIGNABLE;
    if (error) {
        flow_abolish(&p->key, flow->state, 1);
        drop_count(REASON_WORKLOAD_CLOSED);
        return socket_exists(skb, p) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
    }
    flow->seen = bpf_ktime_get_coarse_ns();
    flow->state |= KIND_LOCAL << FLOW_KIND_SHIFT | FLOW_SYN;
    flow->sum = tcp_number_next(skb, p);
    reason = flow_insert(&p->key, flow);
    if (reason > 0) {
        flow_abolish(&p->key, flow->state, 0);
        drops_v1.increment(reason);
    }
    return reason ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* A packet of a handshake that goes on: a SYN sent again, or the answer to a SYN cookie. */
INLINE int tcp_deliver_again(struct __sk_buff *skb, struct lan_packet *p, struct nat_flow *flow)
{
    int state = tcp_socket_state(skb, p);

    if (!state || state == STATE_LISTEN)
        tcp_assign(skb, p, flow);
    return TC_ACT_UNSPEC;
}

#endif
