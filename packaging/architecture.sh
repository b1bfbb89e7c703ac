# For which processor a frozen file is, by Debian's name; sourced.

# debian_of FILE: prints amd64, arm64 or armhf; fails for any other file.
debian_of() {
    # Stands in the second half-word behind the file's identification (elf(5): e_machine).
    case "$(od -An -tu2 -j18 -N2 "$1" | tr -d ' ')" in
    62) echo amd64 ;;
    183) echo arm64 ;;
    40) echo armhf ;;
    *) return 1 ;;
    esac
}
