#!/bin/bash
# What a machine of network_disk.py does first: its root is that of the host, read-only, under a memory disk of its own.
# From the kernel's command line: TOOLS, unpacked Debian packages; DESK, where requests come in; AGENT, PYTHON and SOURCE;
# NAME, ADDRESS and ROLE of the machine.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
if [ -z "$INSIDE" ]; then
    mount -n -t proc proc /proc
    mount -n -t tmpfs memory /mnt
    busybox=$TOOLS/usr/bin/busybox
    $busybox insmod "$TOOLS/usr/lib/modules/$(uname -r)/kernel/fs/overlayfs/overlay.ko"
    mkdir /mnt/upper /mnt/work /mnt/root /mnt/tools
    mount -n -t hostfs tools /mnt/tools -o "$TOOLS"
    mount -n -t overlay root -o lowerdir=/mnt/tools:/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
    mount -n --move /proc /mnt/root/proc
    mount -n -t sysfs sys /mnt/root/sys
    mount -n -t devtmpfs dev /mnt/root/dev
    mkdir -p /mnt/root/dev/shm
    mount -n -t tmpfs memory /mnt/root/dev/shm
    mount -n -t tmpfs memory /mnt/root/run
    mkdir -p /mnt/root/export /mnt/root/shared /mnt/root/desk
    mount -n -t hostfs desk /mnt/root/desk -o "$DESK"
    INSIDE=1 exec chroot /mnt/root /bin/bash "$0"
fi
hostname "$NAME"
modprobe -a nfsv3 nfsv4 nfsd
busybox ip link set lo up
busybox ip link set eth0 up
busybox ip addr add "$ADDRESS/24" dev eth0
mkdir -p /run/rpcbind /var/lib/nfs/rpc_pipefs /var/lib/nfs/v4recovery /var/lib/nfs/sm /var/lib/nfs/sm.bak
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
echo "_rpc:x:64000:65534::/run/rpcbind:/usr/sbin/nologin" >> /etc/passwd
echo "statd:x:64001:65534::/var/lib/nfs:/usr/sbin/nologin" >> /etc/passwd
rpcbind -w
rpc.statd --no-notify
if [ "$ROLE" = server ]; then
    mount -n -t ext4 /dev/ubda /export
    mount -n -t nfsd nfsd /proc/fs/nfsd
    exportfs -i -o rw,no_root_squash,no_subtree_check,fsid=0,insecure '*:/export'
    rpc.nfsd -G 10 -L 10 8
    rpc.mountd
fi
export PYTHONPATH=$SOURCE PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
exec "$PYTHON" "$AGENT" /desk "$ROLE"
