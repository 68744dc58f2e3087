# shellcheck shell=bash
# Shared by the guest builders: cache, progress lines, and the assembly of a bootable disk from a directory.
# Sourced, never run. Nothing here mounts anything, uses a loop device or touches the boot setup of this machine.
#
# The disk that make_disk writes, in 512-byte sectors:
#
#   0        MBR: GRUB's boot.img (reads one sector at 2048), then the GPT
#   2048     partition 1 "bios": GRUB's core.img for BIOS, 3 MiB
#   8192     partition 2 "esp":  FAT with /EFI/BOOT/BOOTX64.EFI (GRUB for UEFI)
#   next MiB partition 3 "root": ext4, last on the disk, so that it can grow with it
#
# Both boot paths find the root file system by its UUID and read /boot/grub/grub.cfg from it:
# one disk boots generation 1 (BIOS) and generation 2 (UEFI).

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
guest_name=$(basename "$0")

# Progress goes to stderr; stdout carries results only.
say() { printf '[%s %4ss] %s\n' "$guest_name" "$SECONDS" "$*" >&2; }
die() { printf '%s: %s\n' "$guest_name" "$*" >&2; exit 1; }

# need TOOL PACKAGE ...: every tool must be there; the message says how to get it.
need() {
  local missing=()
  while [ $# -gt 0 ]; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null || [ -e "$1" ] || missing+=("$1 (package $2)")
    shift 2
  done
  [ ${#missing[@]} -eq 0 ] || die "missing: $(IFS=,; echo "${missing[*]}"). Run scripts/setup, which installs what is needed."
}

need_disk_tools() {
  need sfdisk fdisk mke2fs e2fsprogs mkfs.vfat dosfstools mcopy mtools grub-mkimage grub-common qemu-img qemu-utils \
    /usr/lib/grub/i386-pc/boot.img grub-pc-bin /usr/lib/grub/x86_64-efi/modinfo.sh grub-efi-amd64-bin
}

# The builders give files their owners in the guest, so they run as root.
become_root() {
  [ "$(id -u)" -eq 0 ] && return
  command -v sudo >/dev/null || die "needs root (the guest's files have owners): run it as root, or install sudo"
  exec sudo --preserve-env=LAZULI_CACHE -- "$(realpath "$0")" "$@"
}

# What the caller gets belongs to the user who called sudo.
hand_over() { [ -z "${SUDO_UID:-}" ] || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$@"; }

# cached NAME BUILD OUT FILE...: copies the cached image to OUT; calls `BUILD WORKDIR` first where it is not cached yet.
# BUILD leaves WORKDIR/disk.raw. The key is the hash of FILE... (the scripts that make the image).
# Without OUT (""), prints the path of the cached file, which is read-only.
cached() {
  local name=$1 build=$2 out=$3; shift 3
  local dir=${LAZULI_CACHE:-$repo/.cache}/guests key vhd
  key=$(cat "$@" | sha256sum | cut -c1-16); vhd=$dir/$name-$key.vhd
  mkdir -p "$dir"; hand_over "$(dirname "$dir")"
  exec 9>"$dir/$name.lock"; flock 9
  if [ -e "$vhd" ]; then
    say "cached: $vhd"
  else
    cached_work=$(mktemp -d "$dir/$name.XXXXXX")
    trap 'rm -rf --one-file-system "$cached_work"' EXIT
    "$build" "$cached_work"
    say "fixed VHD"
    qemu-img convert -f raw -O vpc -o subformat=fixed,force_size=on "$cached_work/disk.raw" "$cached_work/disk.vhd"
    chmod 444 "$cached_work/disk.vhd"
    find "$dir" -maxdepth 1 -name "$name-????????????????.vhd" -delete
    mv "$cached_work/disk.vhd" "$vhd"
    hand_over "$dir"
    say "built: $vhd ($(stat -c %s "$vhd") bytes, $(( $(stat -c %b "$vhd") / 2048 )) MiB on disk)"
  fi
  if [ -n "$out" ]; then
    mkdir -p "$(dirname "$out")"
    cp --sparse=always --reflink=auto "$vhd" "$out.part"; chmod 644 "$out.part"; hand_over "$out.part"; mv "$out.part" "$out"
    say "wrote $out"
  else
    echo "$vhd"
  fi
}

# le WIDTH VALUE: VALUE as WIDTH little-endian bytes.
le() {
  local i v=$2
  for ((i = 0; i < $1; i++)); do printf '%b' "\\x$(printf %02x $((v & 255)))"; v=$((v >> 8)); done
}

# patch FILE OFFSET: writes stdin over FILE at OFFSET.
patch() { dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }

# make_disk ROOT OUT.raw MIB ESP_MIB KERNEL_LINE [MKE2FS_OPTION...]
# ROOT holds /vmlinuz and /initrd.img (or links to them); KERNEL_LINE is what follows root=.
make_disk() {
  local root=$1 out=$2 mib=$3 esp_mib=$4 line=$5; shift 5
  local work esp_start=8192 root_start uuid
  work=$(mktemp -d)
  root_start=$((esp_start + esp_mib * 2048)); uuid=$(cat /proc/sys/kernel/random/uuid)
  rm -f "$out"; truncate -s "${mib}M" "$out"
  PATH=$PATH:/usr/sbin sfdisk -q "$out" <<P
label: gpt
start=2048, size=6144, type=21686148-6449-6E6F-744E-656564454649, name=bios
start=$esp_start, size=$((esp_mib * 2048)), type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp
start=$root_start, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root
P
  mkdir -p "$root/boot/grub" "$root/etc"
  cat > "$root/boot/grub/grub.cfg" <<G
set timeout=0
search --no-floppy --set=root --fs-uuid $uuid
linux /vmlinuz root=UUID=$uuid $line
initrd /initrd.img
boot
G
  printf 'UUID=%s / ext4 rw,discard,errors=remount-ro 0 1\n' "$uuid" > "$root/etc/fstab"
  # The file system goes straight into its partition; one MiB at the end stays free for the backup GPT.
  mke2fs -q -t ext4 -U "$uuid" -L root -m 1 -d "$root" "$@" \
    -E "offset=$((root_start * 512)),lazy_itable_init=1,lazy_journal_init=1,discard,root_owner=0:0" \
    "$out" "$((mib * 1024 - root_start / 2 - 1024))k"
  make_boot "$work" "$out" "$uuid" "$esp_start" "$esp_mib"
  rm -rf "$work"
}

# make_boot WORK DISK UUID ESP_START ESP_MIB: GRUB for UEFI into the ESP, GRUB for BIOS into the MBR and partition 1.
make_boot() {
  local work=$1 disk=$2 uuid=$3 esp_start=$4 esp_mib=$5 core_start=2048 sectors
  local modules=(part_gpt part_msdos ext2 search search_fs_uuid configfile normal linux boot echo serial test)
  cat > "$work/early.cfg" <<G
search --no-floppy --set=root --fs-uuid $uuid
set prefix=(\$root)/boot/grub
configfile \$prefix/grub.cfg
G
  grub-mkimage -O x86_64-efi -o "$work/BOOTX64.EFI" -p /boot/grub -c "$work/early.cfg" "${modules[@]}" fat efi_gop
  truncate -s "${esp_mib}M" "$work/esp"
  PATH=$PATH:/usr/sbin mkfs.vfat -n ESP "$work/esp" >/dev/null
  mmd -i "$work/esp" ::/EFI ::/EFI/BOOT
  mcopy -i "$work/esp" "$work/BOOTX64.EFI" ::/EFI/BOOT/BOOTX64.EFI
  dd if="$work/esp" of="$disk" bs=1M seek=$((esp_start / 2048)) conv=notrunc,sparse status=none

  grub-mkimage -O i386-pc -o "$work/core.img" -p /boot/grub -c "$work/early.cfg" biosdisk "${modules[@]}"
  sectors=$(( ($(stat -c %s "$work/core.img") + 511) / 512 ))
  [ "$sectors" -lt 6144 ] || die "GRUB's core image does not fit its partition"
  cp /usr/lib/grub/i386-pc/boot.img "$work/boot.img"
  le 8 $core_start | patch "$work/boot.img" $((0x5c))      # boot.img: where core.img starts
  printf '\xff' | patch "$work/boot.img" $((0x64))         # boot.img: the drive that the BIOS names
  printf '\x90\x90' | patch "$work/boot.img" $((0x66))     # boot.img: ... and believe the BIOS
  { le 8 $((core_start + 1)); le 2 $((sectors - 1)); le 2 $((0x820)); } | patch "$work/core.img" $((512 - 12))
  dd if="$work/boot.img" of="$disk" bs=440 count=1 conv=notrunc status=none
  dd if="$work/core.img" of="$disk" bs=512 seek=$core_start conv=notrunc status=none
}
