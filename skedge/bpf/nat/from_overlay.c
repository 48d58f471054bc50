/* From a link device: the answers to NATed connections of this site's LAN, and new connections to an endpoint whose
 * workload is a LAN machine or container. link_ingress has checked sender and receiver: overlay addresses of sites,
 * or LAN clients whose own address is preserved. */
#include <uapi/linux/bpf.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/pkt_cls.h>
#include <bcc/helpers.h>
#include "common/limits.h"
#include "common/reasons.h"
#include "placement/types.h"
#include "placement/maps.h"
#include "placement/store.h"
#include "common/link_maps.h"
#include "common/packet.h"
#include "nat/flow/types.h"
#include "nat/flow/packet.h"
#include "nat/flow/conntrack.h"
#include "nat/flow/tcp_track.h"
#include "nat/flow/forward.h"
#include "nat/flow/port_alloc.h"
#include "nat/flow/sk_assign.h"
#include "nat/admission/limits.h"

/* Make the flow of a connection that another site placed at our endpoint. It is counted there, not here. */
INLINE int flow_admit(struct __sk_buff *skb, const struct nat_config *config, struct lan_packet *p,
                      const struct endpoint *endpoint, struct scratch *m)
{
    struct nat_flow *flow = &m->flow;
    struct placement *placement = 0;
    int reason;

    if (!source_may_open(config, p->key.from))
        return packet_refuse(REASON_SOURCE_LIMIT);
    reason = flow_reserve(&p->key, &placement);
    if (reason < 0 || (!reason && !placement))
        return TC_ACT_SHOT;
    if (reason || !placement)
        return packet_refuse(REASON_TABLE_FULL);
    half_open_enter(config, &p->key, placement, &m->ended);
    if (endpoint->v6) {
        address_copy(flow->to, endpoint->host.word);
    } else {
        flow->to[0] = flow->to[1] = 0;
        flow->to[2] = MAPPED_PREFIX;
        flow->to[3] = endpoint->host.word[0];
    }
    flow->to_port = bpf_htons(endpoint->port);
    address_copy(placement->listener, p->key.to);
    placement->listener_port = p->key.to_port;
    placement->protocol = p->key.protocol;
    address_copy(placement->target, flow->to);
    placement->target_port = flow->to_port;
    m->kind = KIND_OVERLAY;
    nat_programs_v1.call(skb, NAT_BEGIN);
    return TC_ACT_SHOT;
}

/* Whether a socket of this host has said that it wants datagrams from there, as link/deliver_udp.h asks. */
INLINE int udp_socket_waits(struct __sk_buff *skb, const struct lan_packet *p, int from_endpoint)
{
    struct bpf_sock_tuple t = {};
    struct bpf_sock *sk = bpf_sk_lookup_udp(skb, &t, tuple_fill(&t, p, p->key.to, p->key.to_port),
                                            BPF_F_CURRENT_NETNS, 0);
    int waits;

    if (!sk)
        return 0;
    waits = sk->dst_port != 0;
    if (!waits && from_endpoint)
        waits = link_udp_clients_v1.sk_storage_get(sk, 0, 0) != 0;
    bpf_sk_release(sk);
    return waits;
}

/* A packet to a NAT port or address, or to an endpoint whose workload is a LAN machine (@to_machine), that is of no flow. A
 * socket may have bound that port itself; and a workload or a client that speaks to one whose flow is lost, or was ended
 * (nat/end.c), is told so by the stack, as where a socket is gone. Nothing else passes: not what opens a connection, nor what
 * a listening socket would judge. */
INLINE int packet_without_flow(struct __sk_buff *skb, const struct link_config *link, const struct lan_packet *p,
                               int to_machine)
{
    __u16 from_port = bpf_ntohs(p->key.from_port);
    int from_endpoint = port_is_endpoint(link, from_port), state;

    if (p->key.protocol == IPPROTO_UDP)
        return udp_socket_waits(skb, p, from_endpoint) ? TC_ACT_OK : packet_refuse(REASON_NO_SOCKET);
    state = tcp_socket_state(skb, p);
    if (state && state != STATE_LISTEN)
        return TC_ACT_OK;
    drop_count(REASON_NO_SOCKET);
    return !state && (from_endpoint | to_machine) && !(p->tcp_flags & TCP_RST) && p->tcp_flags & TCP_ACK ? TC_ACT_OK
                                                                                                      : TC_ACT_SHOT;
}

int lan_overlay(struct __sk_buff *skb)
{
    struct scratch *scratch = scratch_reset();
    struct nat_flow *flow;
    struct lan_packet p;
    __u64 state;
    int fresh;
    __u32 zero = 0;
    struct nat_config *config = nat_config_v1.lookup(&zero);
    struct endpoint_key key = {};
    struct endpoint *endpoint;
    struct link_config *link = link_config_v2.lookup(&zero);

    if (!link || !config || !config->device || !scratch || lan_packet_parse_first(skb, &p, CB_GET(skb, CB_LINK) & 15))
        return packet_refuse(REASON_MALFORMED);
    fresh = p.key.protocol == IPPROTO_UDP || (p.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
    flow = nat_flows_v1.lookup(&p.key);
    state = flow ? state_read(flow) : 0;
    if (flow && ((state & FLOW_REPLY) || !(state & FLOW_ENDED) || !fresh))
        return flow_carry(skb, config, &p, flow);
    if (flow && flow_delete(&p.key, flow, state, 0))
        return TC_ACT_SHOT;
    key.port = bpf_ntohs(p.key.to_port);
    key.protocol = p.key.protocol;
    endpoint = endpoints_v1.lookup(&key);
    if (!nat_address_in_overlay(link, p.key.to, p.v6))
        return packet_refuse(REASON_NO_SOCKET);
    if (!fresh || (!endpoint && p.key.protocol == IPPROTO_UDP))
        return packet_without_flow(skb, link, &p, endpoint && (endpoint->flags & ENDPOINT_OFF_HOST));
    if (!endpoint || !(endpoint->flags & ENDPOINT_OFF_HOST) || endpoint->v6 != p.v6)
        return packet_refuse(REASON_NOT_PUBLISHED);
    return flow_admit(skb, config, &p, endpoint, scratch);
}
