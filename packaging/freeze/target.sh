# What differs between the architectures; sourced with ARCH set.

case $ARCH in
x86_64)
    triple=x86_64-linux-gnu
    rust_target=x86_64-unknown-linux-gnu
    wheel_platform=manylinux_2_17_x86_64
    ;;
aarch64)
    triple=aarch64-linux-gnu
    rust_target=aarch64-unknown-linux-gnu
    wheel_platform=manylinux_2_17_aarch64
    ;;
armv7)
    triple=arm-linux-gnueabihf
    rust_target=armv7-unknown-linux-gnueabihf
    wheel_platform=manylinux_2_17_armv7l
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
