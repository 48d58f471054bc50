/* Where a socket wants to go and what it can reach, read from the call and from the socket itself. */
#ifndef SKEDGE_SOCKET_REQUEST_H
#define SKEDGE_SOCKET_REQUEST_H

/* Where a socket wants to go, and what a workload must have for it. */
struct request {
    struct listener_key to;
    __u32 need;    /* SLOT_* */
    int prefer6;
    int bound;     /* to an address that cannot leave the site */
    struct affinity_key client; /* the address that the socket is bound to, zero where it has none */
};

/* The destination as listener key; 0.0.0.0 and :: mean loopback, as in the kernel. */
static __always_inline void listener_key_read4(struct bpf_sock_addr *ctx, struct listener_key *key)
{
    __u32 addr = ctx->user_ip4;

    key->addr[0] = key->addr[1] = 0;
    key->addr[2] = MAPPED_PREFIX;
    key->addr[3] = addr ? addr : __builtin_bswap32(0x7f000001);
    key->port = ctx->user_port & 0xffff;
    key->protocol = ctx->protocol;
}

static __always_inline void listener_key_read6(struct bpf_sock_addr *ctx, struct listener_key *key)
{
    key->addr[0] = ctx->user_ip6[0];
    key->addr[1] = ctx->user_ip6[1];
    key->addr[2] = ctx->user_ip6[2];
    key->addr[3] = ctx->user_ip6[3];
    if (!(key->addr[0] | key->addr[1] | key->addr[2] | key->addr[3]))
        key->addr[3] = __builtin_bswap32(1);
    key->port = ctx->user_port & 0xffff;
    key->protocol = ctx->protocol;
}

/* Read one byte of the kernel's struct sock. The verifier allows no arithmetic on a socket pointer, only on numbers:
 * so the pointer is first copied to the number that it is. */
static __always_inline __u8 sock_read_byte(struct bpf_sock *sk, __u32 offset)
{
    struct bpf_sock *pointer = sk;
    __u64 number = 0;
    __u8 byte = 0;

    bpf_probe_read_kernel(&number, sizeof(number), &pointer);
    bpf_probe_read_kernel(&byte, sizeof(byte), (void *)(number + offset));
    return byte;
}

static __always_inline int sock_is_v6only(struct bpf_sock *sk)
{
    return sock_read_byte(sk, OFF_V6ONLY_BYTE) >> OFF_V6ONLY_BIT & 1;
}

/* Whether bind(2) gave the source address; a connected UDP socket also has one, but from its last connect(2). */
static __always_inline int sock_is_bound(struct bpf_sock *sk)
{
    return sock_read_byte(sk, OFF_USERLOCKS_BYTE) >> OFF_USERLOCKS_BIT & BINDADDR_LOCK;
}

static __always_inline int address_is_mapped(const __u32 *addr)
{
    return !addr[0] && !addr[1] && addr[2] == MAPPED_PREFIX;
}

/* Of a connect that ends before it was established: whether it was refused, or not answered (the SYN was sent again at
 * least once). A client that gives up at once, or an abort on purpose, says nothing about the workload; neither does one
 * whose SYNs the own host did not let out (a unit's IPAddressDeny, an output rule): skedge_sockops() is told of each that
 * is sent again, and asks no more when one went out. */
static __always_inline int sock_is_unanswered(struct bpf_sock *sk)
{
    __u8 error = sock_read_byte(sk, OFF_SK_ERR);

    __u8 again = sock_read_byte(sk, OFF_TOTAL_RETRANS);

    if (again && (sock_read_byte(sk, OFF_CB_FLAGS) & BPF_SOCK_OPS_RETRANS_CB_FLAG))
        return 0;
    return error && error != ERR_TIMEDOUT ? error != ERR_CONNABORTED : again != 0;
}

/* Zeros that the verifier takes for any numbers, as an address is: or it walks the pick once for each. */
static __always_inline void request_clear_client(struct bpf_sock *sk, struct request *request)
{
    __u64 zero = 0;

    BLUR(sk, zero);
    request->client.client[0] = request->client.client[1] = zero;
    request->client.client[2] = request->client.client[3] = zero;
    request->client.service = zero;
}

/* Say what an IPv4 source address allows. */
static __always_inline void request_bind4(const struct config *config, __u32 source, struct request *request)
{
    request->client.client[2] = MAPPED_PREFIX;
    request->client.client[3] = source;
    request->need = SLOT_IN | SLOT_T4;
    request->prefer6 = 0;
    request->bound |= source != config->overlay4;
}

/* Fill in what an AF_INET socket needs. */
static __always_inline void request_read4(struct bpf_sock *sk, const struct config *config, struct request *request)
{
    __u32 source = sk->src_ip4;

    request_clear_client(sk, request);
    request->need = SLOT_IN | SLOT_T4;
    request->prefer6 = 0;
    request->bound = sk->bound_dev_if != 0;
    if (source && sock_is_bound(sk))
        request_bind4(config, source, request);
    if (request->bound)
        request->need |= SLOT_OWN_SITE;
}

/* Fill in what an AF_INET6 socket needs that goes to an IPv6 or (mapped) an IPv4-mapped listener.
 * @pure6: the hook cannot turn an IPv6 destination into a mapped one (sendmsg6). */
static __always_inline void request_read6(struct bpf_sock *sk, const struct config *config, int mapped, int pure6,
                                          struct request *request)
{
    __u32 source[4] = {sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2], sk->src_ip6[3]};
    __u32 differs;

    request_clear_client(sk, request);
    request->need = SLOT_IN | SLOT_ANY;
    request->prefer6 = !mapped;
    request->bound = sk->bound_dev_if != 0;
    if (!mapped && (pure6 || sock_is_v6only(sk)))
        request->need = SLOT_IN | SLOT_T6;
    if ((source[0] | source[1] | source[2] | source[3]) && sock_is_bound(sk)) {
        if (address_is_mapped(source)) {
            if (source[3])
                request_bind4(config, source[3], request);
            else
                request->need = SLOT_IN | SLOT_T4;
        } else {
            differs = (source[0] ^ config->overlay6[0]) | (source[1] ^ config->overlay6[1]) |
                      (source[2] ^ config->overlay6[2]) | (source[3] ^ config->overlay6[3]);
            request->client.client[0] = source[0];
            request->client.client[1] = source[1];
            request->client.client[2] = source[2];
            request->client.client[3] = source[3];
            request->need = SLOT_IN | SLOT_T6;
            request->prefer6 = 1;
            request->bound |= differs != 0;
        }
    }
    if (request->bound)
        request->need |= SLOT_OWN_SITE;
}

/* A TCP socket that connected to a mapped address once keeps the kernel's IPv4 operations: a later connect of it to an
 * IPv6 address would send nothing, so it goes where IPv4 leads. */
static __always_inline void request_stay_mapped(struct request *request)
{
    request->need = (request->need & ~(SLOT_ANY | SLOT_T6)) | SLOT_T4;
    request->prefer6 = 0;
}

/* Fill in what an AF_INET6 socket needs that sends a datagram to an IPv4-mapped listener: the hook is the IPv4 one. */
static __always_inline void request_read_mapped(struct bpf_sock *sk, const struct config *config,
                                                struct request *request)
{
    __u32 mapped = sk->src_ip6[2], source = sk->src_ip6[3];

    request_clear_client(sk, request);
    request->need = SLOT_IN | SLOT_T4;
    request->prefer6 = 0;
    request->bound = sk->bound_dev_if != 0;
    if (mapped == MAPPED_PREFIX && source && sock_is_bound(sk))
        request_bind4(config, source, request);
    if (request->bound)
        request->need |= SLOT_OWN_SITE;
}

#endif
