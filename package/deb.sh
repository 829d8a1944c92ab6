#!/bin/sh
# Makes nettrace_VERSION_all.deb, in a folder (build/), of what 'make install' installs; the same bytes every time.
set -eu
cd "$(dirname "$0")/.."
umask 022
folder=${1:-build}
root=$folder/deb
doc=$root/usr/share/doc/nettrace
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' nettrace/version.py)
released=$(sed -n 's/^\.TH NETTRACE 8 \([0-9-]*\) .*/\1/p' docs/nettrace.8)
SOURCE_DATE_EPOCH=$(date -u -d "$released" +%s)
export SOURCE_DATE_EPOCH

rm -rf "$root"
make -s install DESTDIR="$root" PREFIX=/usr ZSH_DIR=share/zsh/vendor-completions
mkdir -p "$doc" "$root/DEBIAN"
cp package/debian/copyright "$doc"
cp -R examples contrib "$doc"
rm -rf "$doc/examples/__pycache__"
sed -i 's|/usr/local/bin|/usr/bin|' "$doc"/contrib/*.service
cp README.md CHANGELOG.md "$doc"
cat > "$doc/changelog" << END
nettrace ($version) unstable; urgency=medium

  * See CHANGELOG.md.

 -- $(sed -n 's/^Maintainer: //p' package/debian/control)  $(date -u -R -d "$released")
END
gzip -9n "$root"/usr/share/man/man?/* "$doc"/*.md "$doc/changelog"

cp package/debian/postinst package/debian/prerm package/debian/postrm "$root/DEBIAN"
sed "s/@VERSION@/$version/" package/debian/control > "$root/DEBIAN/control"
echo "Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)" >> "$root/DEBIAN/control"
chmod -R u=rwX,go=rX "$root"
(cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) > "$root/DEBIAN/md5sums"
dpkg-deb --root-owner-group -b "$root" "$folder" > /dev/null
rm -rf "$root"
echo "$folder/nettrace_${version}_all.deb"
