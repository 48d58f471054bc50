/* What every iterator gets, as the kernel has it. */
#ifndef SKEDGE_COMMON_ITERATORS_H
#define SKEDGE_COMMON_ITERATORS_H

struct bpf_iter_meta;
struct seq_file;
struct iter_meta {
    struct seq_file *seq;
    __u64 session;
    __u64 number; /* of the object, from 0 */
};

#define PAUSE_EVERY 2048 /* objects; a power of two: one to some milliseconds */

/* Let the reader, who asks for one byte, have a pause: kernels that do not preempt themselves give the processor to nobody else
 * for as long as a reading takes. The kernel goes on by position, so what lies near it is missed when others go meanwhile.
 * Each walk pauses elsewhere, so that the next one does not miss the same. */
static __always_inline void iterator_pause(const struct iter_meta *meta)
{
    __u8 byte = 0;

    if (((meta->number + meta->session * 1021) & (PAUSE_EVERY - 1)) == PAUSE_EVERY - 1)
        bpf_seq_write(meta->seq, &byte, sizeof(byte));
}

#endif
