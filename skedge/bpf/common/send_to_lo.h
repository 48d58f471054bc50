/* Packets that only lo takes, or that shall come in by it. */
#ifndef SKEDGE_COMMON_SEND_TO_LO_H
#define SKEDGE_COMMON_SEND_TO_LO_H

#define LOOPBACK_INDEX 1 /* in every network namespace */

/* Let a packet come in by lo (``device``), whose only link-layer address is all zeros. ``link`` is the length of the
 * header that the packet has. No sum over a packet that has come in covers that header. */
INLINE int skb_send_to_lo(struct __sk_buff *skb, __u32 link, __u32 device)
{
	__u8 zeros[6] = {};
	__u16 type = skb->protocol;

	if (!link && (bpf_skb_change_head(skb, ETH_LENGTH, 0) ||
		      bpf_skb_store_bytes(skb, 12, &type, sizeof(type), 0)))
		return TC_ACT_SHOT;
	if (bpf_skb_store_bytes(skb, 0, zeros, sizeof(zeros), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(device, BPF_F_INGRESS);
}

#endif
