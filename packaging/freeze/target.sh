# What differs between the architectures; sourced with ARCH set. The names are those of the compiler,
# of Rust, of wheels, of the C library's loader and of qemu-user.

orjson_needs=
case $ARCH in
x86_64)
    triple=x86_64-linux-gnu
    rust_target=x86_64-unknown-linux-gnu
    wheel_platform=manylinux_2_17_x86_64
    dynamic_loader=ld-linux-x86-64.so.2
    ;;
aarch64)
    triple=aarch64-linux-gnu
    rust_target=aarch64-unknown-linux-gnu
    wheel_platform=manylinux_2_17_aarch64
    dynamic_loader=ld-linux-aarch64.so.1
    qemu=qemu-aarch64
    ;;
armv7)
    triple=arm-linux-gnueabihf
    rust_target=armv7-unknown-linux-gnueabihf
    wheel_platform=manylinux_2_17_armv7l
    dynamic_loader=ld-linux-armhf.so.3
    qemu=qemu-arm
    # The wheel names a library that the device may not have, for two functions that nobody calls. The
    # whole of it, because whoever else asks for it by name is given this one.
    orjson_needs=/usr/lib/$triple/libgcc_s.so.1
    ;;
*)
    echo "cannot build for \"$ARCH\": ARCH is x86_64, aarch64 or armv7 (nothing is built)" >&2
    exit 2
    ;;
esac

# Not -Os: it costs 1.6 times the CPU time. Sections let the linker drop what nobody reaches; without
# position independence no pointer is relocated at start, so that Python's data stays shared; nothing
# unwinds through C; padding is a twentieth of the code.
compile_flags="-O2 -g0 -fno-pie -ffunction-sections -fdata-sections"
compile_flags+=" -fno-asynchronous-unwind-tables -fno-unwind-tables"
compile_flags+=" -falign-functions=1 -falign-loops=1 -falign-jumps=1 -falign-labels=1"
