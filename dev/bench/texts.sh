#!/usr/bin/env bash
# Texts to measure the tokenizer with, many different ones, from Debian's packages (bookworm; no root needed):
#
#   dev/bench/texts.sh DIR      writes DIR/english.txt (54 MB), code.txt (73 MB), chinese.txt (7 MB) and japanese.txt (12 MB)
#
# English: the kernel's, Perl's, Python's and PostgreSQL's documentation, Debian's handbook. Code: Go's sources, Boost's headers. Chinese and
# Japanese: manual pages, Debian's handbook. Of HTML, the text between the tags.
set -euo pipefail
dir=${1:?usage: $0 DIR}
mkdir -p "$dir/root"
cd "$dir"
packages=(linux-doc-6.1 perl-doc python3.11-doc debian-handbook postgresql-doc-15 golang-1.19-src libboost1.74-dev manpages-zh manpages-ja)
for package in "${packages[@]}"; do
    compgen -G "${package}_*.deb" >/dev/null || apt-get download "$package"
    dpkg -x "${package}"_*.deb root
done
doc=root/usr/share/doc man=root/usr/share/man
plain() { tr '\n' '\r' | sed 's/<script[^>]*>[^<]*<\/script>//g; s/<[^>]*>//g; s/&lt;/</g; s/&gt;/>/g; s/&quot;/"/g; s/&#[0-9x]*;//g; s/&amp;/\&/g' | tr '\r' '\n' | cat -s; }
files() { find "$@" -type f -print0 | LC_ALL=C sort -z; }
utf8() { iconv -c -f UTF-8 -t UTF-8 || true; }
{
    files $doc/linux-doc-6.1/Documentation -name '*.rst.gz' | xargs -0 zcat
    files root/usr -name '*.pod' | xargs -0 cat
    files $doc/python3.11/html -name '*.html' | xargs -0 cat | plain
    files $doc/debian-handbook/html/en-US $doc/postgresql-doc-15/html -name '*.html' | xargs -0 cat | plain
} | utf8 >english.txt
{
    files root/usr/share/go-1.19/src -name '*.go' | xargs -0 cat
    files root/usr/include/boost -name 'a*.hpp' | xargs -0 cat
} | utf8 >code.txt
for language in 'chinese zh_CN zh-CN' 'japanese ja ja-JP'; do
    read -r name pages book <<<"$language"
    {
        files $man/$pages -name '*.gz' | xargs -0 zcat
        files $doc/debian-handbook/html/$book -name '*.html' | xargs -0 cat | plain
    } | utf8 >$name.txt
done
wc -c ./*.txt
