// Command kfake runs franz-go's embedded broker as a program, to be measured beside `ottla serve`.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"
)

func main() {
	port := flag.Int("port", 0, "where to listen on 127.0.0.1")
	data := flag.String("data", "", "directory of the logs; in memory without it")
	sync := flag.Bool("sync", false, "sync every write")
	flag.Parse()
	options := []kfake.Opt{
		kfake.Ports(*port),
		kfake.NumBrokers(1),
		kfake.DefaultNumPartitions(1),
		kfake.AllowAutoTopicCreation(),
	}
	if *data != "" {
		options = append(options, kfake.DataDir(*data))
	}
	if *sync {
		options = append(options, kfake.SyncWrites())
	}
	cluster, err := kfake.NewCluster(options...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	<-stop
	cluster.Close()
}
