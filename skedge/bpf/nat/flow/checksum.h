/* Checksums that are made here, not changed by a difference. */
#ifndef SKEDGE_NAT_FLOW_CHECKSUM_H
#define SKEDGE_NAT_FLOW_CHECKSUM_H

/* Whether the transport checksum is left to the device. The helper changes only checksums that are not; so a change is
 * tried, and taken back. */
INLINE int checksum_is_partial(struct __sk_buff *skb, __u32 at)
{
    __u16 before = 0, after = 0;

    if (bpf_skb_load_bytes(skb, at, &before, 2) || bpf_l4_csum_replace(skb, at, 0, 1, 2) ||
        bpf_skb_load_bytes(skb, at, &after, 2))
        return 0;
    if (before == after)
        return 1;
    bpf_skb_store_bytes(skb, at, &before, 2, 0);
    return 0;
}

INLINE __u16 checksum_fold(__u64 sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

#endif
