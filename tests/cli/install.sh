# install.sh - what `make install` leaves is usable: pkg-config, the header in C and C++, static and shared linking.
. tests/cli/lib.sh
succeeds "make install" make --no-print-directory install DESTDIR="$T" PREFIX=/usr
export PKG_CONFIG_PATH=$T/usr/lib/pkgconfig
# --define-prefix: the prefix is where the file was found, below DESTDIR
flags=$(pkg-config --define-prefix --cflags --libs coar)
same "pkg-config names the version" "$(pkg-config --modversion coar)" "$("$COAR" --version | cut -d' ' -f2)"
cat >"$T/p.c" <<'P'
#include <coar.h>
#include <stdio.h>
int main(void) { return puts(coar_version()) < 0; }
P
succeeds "link against the shared library" cc -std=c17 -Wall -Werror "$T/p.c" -o "$T/p" $flags
same "run it" "$(LD_LIBRARY_PATH=$T/usr/lib "$T/p")" "$("$COAR" --version | cut -d' ' -f2)"
# libcoar.a over the shared libraries of its dependencies, which the .pc file names
needs=$(pkg-config --print-requires-private coar)
succeeds "link statically" cc -std=c17 "$T/p.c" -o "$T/ps" -I"$T/usr/include" "$T/usr/lib/libcoar.a" $(pkg-config --libs $needs) $(pkg-config --variable=private_libs coar)
if command -v c++ >/dev/null; then
    succeeds "the header in C++" c++ -x c++ -std=c++17 -Wall -Werror -fsyntax-only -I"$T/usr/include" "$T/p.c"
else
    skip "the header in C++" "no C++ compiler"
fi
symbols=$(nm -D --defined-only "$T/usr/lib/libcoar.so" | awk '$2 ~ /[TDBR]/ && $3 !~ /^coar_/ {print $3}' | head)
same "the shared library exports coar_ names alone" "$symbols" ""
succeeds "the example program" "${BUILD:-build}/examples/attribute" "$T/example-data.h5" "$T/example.h5"
succeeds "the example program goes on where it was" "${BUILD:-build}/examples/attribute" "$T/example-data.h5" "$T/example.h5"
finish
