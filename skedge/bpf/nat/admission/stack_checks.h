/* Checks of the host's stack that packets of flows by-pass, made here for the first packet of each: no martian addresses
 * (RFC 1812, RFC 4291), and for IPv4 the reverse path filter of the device, as it is set now. IPv6 has no such filter. */
#ifndef SKEDGE_NAT_ADMISSION_STACK_CHECKS_H
#define SKEDGE_NAT_ADMISSION_STACK_CHECKS_H

/* Offsets in the running kernel's structs, found in its BTF by the loader. */
#ifndef OFF_SKB_DEV
#error "the loader defines OFF_SKB_DEV, OFF_DEV_IN_DEVICE, OFF_DEV_NET, OFF_RP_FILTER, OFF_NET_DEVCONF_ALL and OFF_DEVCONF_RP_FILTER"
#endif

#define RP_FILTER_STRICT 1
#define RETURN_TRIES 8 /* routes with several next hops: each try has another port, which takes another of them */

/* Whether no packet to or from one host can have this address: "this" network, loopback, a group, the limited broadcast.
 * 240.0.0.0/4 is as plain as the stack takes it for. */
INLINE int address4_is_martian(__u32 address)
{
    __u32 network = address & bpf_htonl(0xff000000);

    return !network || network == bpf_htonl(0x7f000000) ||
           (address & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || address == 0xffffffff;
}

INLINE int address6_is_martian(const __u32 *address)
{
    if ((address[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000))
        return 1;
    return !(address[0] | address[1] | address[2]) && !(address[3] & ~bpf_htonl(1));
}

/* Addresses of IPv4 in an IPv6 header never come this far, see lan_packet_parse6(). */
INLINE int packet_is_martian(const struct lan_packet *p)
{
    if (p->v6)
        return address6_is_martian(p->key.from) || address6_is_martian(p->key.to);
    return address4_is_martian(p->key.from[3]) || address4_is_martian(p->key.to[3]);
}

/* Read a word of the kernel's memory, 0 where there is none. */
INLINE __u64 kernel_pointer_read(__u64 at)
{
    __u64 found = 0;

    if (at)
        bpf_probe_read_kernel(&found, sizeof(found), (void *)at);
    return found;
}

INLINE __u32 kernel_setting_read(__u64 at)
{
    __u32 found = 0;

    bpf_probe_read_kernel(&found, sizeof(found), (void *)at);
    return found;
}

/* Return the reverse path filter that holds for the device which the packet came by: the larger one of its own and that
 * of all. The verifier lets nobody follow the context's pointer, so it is copied to the number that it is. */
INLINE __u32 rp_filter_of_device(struct __sk_buff *skb)
{
    struct __sk_buff *pointer = skb;
    __u64 packet = 0, device, at;
    __u32 own, every;

    bpf_probe_read_kernel(&packet, sizeof(packet), &pointer);
    device = kernel_pointer_read(packet + OFF_SKB_DEV);
    if (!device)
        return 0;
    at = kernel_pointer_read(device + OFF_DEV_IN_DEVICE);
    own = at ? kernel_setting_read(at + OFF_RP_FILTER) : 0;
    at = kernel_pointer_read(device + OFF_DEV_NET);
    at = kernel_pointer_read(at + OFF_NET_DEVCONF_ALL);
    every = at ? kernel_setting_read(at + OFF_DEVCONF_RP_FILTER) : 0;
    return own > every ? own : every;
}

/* Whether the client can be answered: there is a route to it (so its address is no one's of this host, and no broadcast),
 * and where the device asks for it, that leads back over the device. Returns 0 or the reason why not. */
INLINE int client_check(struct __sk_buff *skb, const struct nat_config *config, const struct lan_packet *p)
{
    struct nat_flow back = {};
    struct bpf_fib_lookup fib;
    long found;

    address_copy(back.from, p->key.to);
    address_copy(back.to, p->key.from);
    if (p->v6 && address_is_link_local((struct address *)back.to))
        return REASON_NO_ROUTE;
#pragma unroll
    for (int i = 0; i < RETURN_TRIES; i++) {
        back.from_port = i;
        found = route_lookup_marked(skb, config, p, &back, 0, &fib, 0); /* an answer has not the mark of the question */
        if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
            return REASON_NO_ROUTE;
        if (p->v6 || fib.ifindex == skb->ifindex || (!i && rp_filter_of_device(skb) != RP_FILTER_STRICT))
            return 0;
    }
    return REASON_REVERSE_PATH;
}

#endif
