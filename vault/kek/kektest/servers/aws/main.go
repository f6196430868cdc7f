// Program aws is local-kms, an emulator of AWS KMS that others wrote, on loopback: for make kms. It is a module of its own, so
// that nothing of it is among the dependencies of tokenbroker.
//
//	aws DIRECTORY
//
// It prints its address and serves until it is ended.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/nsmithuk/local-kms/src"
	"github.com/nsmithuk/local-kms/src/config"
	"github.com/nsmithuk/local-kms/src/data"
)

func main() {
	config.AWSRegion, config.AWSAccountId = "eu-west-1", "111122223333"
	database := data.NewDatabase(os.Args[1])
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("http://" + socket.Addr().String())
	log.Fatal(http.Serve(socket, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { src.HandleRequest(w, r, database) })))
}
